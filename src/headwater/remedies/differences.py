"""Two arms compared: paired differences over seeds and test rows, with intervals, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import t as student

from headwater.remedies.measure import CLASSES, LEAST, TOKENS, Measure
from headwater.remedies.removal import SIGNIFICANT, compare

BETTER, HARMFUL, NONE = "better", "harmful", "no difference shown"


@dataclass(frozen=True)
class Told:
    """What one arm's models, one a seed, said of the test rows. A row has one target, its label, or its tokens."""

    correct: Bool[np.ndarray, "seeds rows"] | Float[np.ndarray, "seeds rows"]
    """Whether the label is right; of tokens, the share that is the model's first choice."""
    losses: Float[np.ndarray, "seeds rows"]
    """Cross entropy of a target (of tokens: their mean), nats."""
    tokens: Int[np.ndarray, " rows"] | None = None
    """How many target tokens each row has; None: labels."""

    def of(self, rows: np.ndarray) -> Told:
        """The same of some rows."""
        return Told(self.correct[:, rows], self.losses[:, rows], None if self.tokens is None else self.tokens[rows])

    @property
    def measure(self) -> Measure:
        """What is measured of them."""
        return CLASSES if self.tokens is None else TOKENS

    @property
    def mostly_right(self) -> Bool[np.ndarray, " rows"]:
        """Whether more than half of the seeds are right, in every token."""
        return np.asarray(2 * (self.correct == 1).sum(axis=0) > len(self.correct))

    def mean(self, values: Float[np.ndarray, "seeds rows"]) -> Float[np.ndarray, " seeds"]:
        """Each seed's mean over all targets."""
        return np.asarray(np.average(values.astype(np.float64), axis=1, weights=self.tokens))


@dataclass(frozen=True)
class Interval:
    """A mean difference and its 95% interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Plain values."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Difference:
    """The first arm less the second, on the same seeds and rows."""

    accuracy: Interval
    loss: Interval
    fixed: int
    """Rows that the first arm mended, and those that it broke, as the measure says (see `turned`)."""
    broken: int
    p: float
    """Of an exact two-sided sign test over rows: how often each is right over its seeds, or its loss a token."""
    rows: int
    seeds: int
    measure: Measure = CLASSES

    @property
    def decisive(self) -> Interval:
        """The difference that the verdict goes by."""
        return self.accuracy if self.measure.decides == "accuracy" else self.loss

    @property
    def word(self) -> str:
        """`better`, `harmful` or `no difference shown`: by accuracy, where interval and sign test agree; of tokens by
        the interval of the loss.

        One seed shows no difference: how much of it is the noise of training is not known. Nor does one row.
        """
        found, by_accuracy = self.decisive, self.measure.decides == "accuracy"
        if min(self.seeds, self.rows) < 2 or found.low <= 0 <= found.high or (by_accuracy and self.p >= SIGNIFICANT):
            return NONE
        return BETTER if (found.value > 0) == by_accuracy else HARMFUL

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "accuracy": self.accuracy.to_dict(),
            "loss": self.loss.to_dict(),
            "fixed": self.fixed,
            "broken": self.broken,
            "p": self.p,
            "rows": self.rows,
            "seeds": self.seeds,
            "word": self.word,
        }


def difference(one: Told, other: Told) -> Difference:
    """Compare two arms whose seeds and rows are the same, in the same order."""
    right = one.correct.astype(np.float64) - other.correct
    fixed, broken = turned(one, other)
    accuracy = interval(right, one.tokens)
    standing = [each.correct if each.tokens is None else -each.losses for each in (one, other)]
    return Difference(
        accuracy=Interval(accuracy.value, max(-1.0, accuracy.low), min(1.0, accuracy.high)),
        loss=interval(one.losses.astype(np.float64) - other.losses, one.tokens),
        fixed=int(fixed.sum()),
        broken=int(broken.sum()),
        p=compare(standing[0].mean(axis=0), standing[1].mean(axis=0)).p,
        rows=right.shape[1],
        seeds=len(right),
        measure=one.measure,
    )


def turned(one: Told, other: Told) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """Which rows the first arm mended, and which it broke, compared with the second.

    Labels: wrong for most seeds and right for most; the other way. Tokens: the row's loss a token fell by more than
    LEAST in every seed; rose so.
    """
    if one.tokens is None:
        before, after = other.mostly_right, one.mostly_right
        return ~before & after, before & ~after
    changes = one.losses.astype(np.float64) - other.losses
    return (changes < -LEAST).all(axis=0), (changes > LEAST).all(axis=0)


def interval(paired: Float[np.ndarray, "seeds rows"], tokens: Int[np.ndarray, " rows"] | None = None) -> Interval:
    """The mean of paired differences and its 95% interval, over another choice of seeds and of test rows.

    mean +- t * sqrt(variance of the seeds' means / seeds + variance of the rows' means / rows), t of seeds - 1 degrees
    of freedom (of fewer rows than seeds, rows - 1). All rows of a seed share one training, so rows tell nothing of its
    noise: few seeds give wide intervals, and that is meant (a bootstrap over two seeds called the noise of training a
    difference). What seeds and rows have in common is counted twice, which errs to the wide side, too. Of one seed the
    interval is over rows alone. `tokens`: each row counts so often; the mean is then that of a ratio, whose rows vary
    by tokens / mean tokens * (difference - mean).
    """
    seeds, rows = paired.shape
    each = np.average(paired, axis=1, weights=tokens)
    mean = float(each.mean())
    size = np.ones(rows) if tokens is None else tokens / tokens.mean()
    of_rows = float(np.square(size * (paired.mean(axis=0) - mean)).sum() / ((rows - 1) * rows)) if rows > 1 else 0.0
    of_seeds = float(each.var(ddof=1) / seeds) if seeds > 1 else 0.0
    freedom = min(seeds, rows) - 1 if seeds > 1 else rows - 1
    half = float(student.ppf(0.975, max(1, freedom)) * np.sqrt(of_rows + of_seeds))
    return Interval(mean, mean - half, mean + half)


def by_part(one: Told, other: Told, parts: Mapping[str, np.ndarray]) -> dict[str, Difference]:
    """The difference on each part of the test rows."""
    return {name: difference(one.of(rows), other.of(rows)) for name, rows in parts.items() if len(rows)}
