"""Two arms compared: paired differences over seeds and test rows, with intervals, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import t as student

from headwater.remedies.removal import SIGNIFICANT, compare

BETTER, HARMFUL, NONE = "better", "harmful", "no difference shown"


@dataclass(frozen=True)
class Told:
    """What one arm's models, one a seed, said of the test rows."""

    predicted: tuple[tuple[str, ...], ...]
    """Of each seed, the label of each row."""
    correct: Bool[np.ndarray, "seeds rows"]
    losses: Float[np.ndarray, "seeds rows"]
    """Cross entropy of the true label, nats."""

    def of(self, rows: np.ndarray) -> Told:
        """The same of some rows."""
        words = tuple(tuple(np.asarray(seed, dtype=object)[rows].tolist()) for seed in self.predicted)
        return Told(words, self.correct[:, rows], self.losses[:, rows])

    @property
    def mostly_right(self) -> Bool[np.ndarray, " rows"]:
        """Whether more than half of the seeds are right."""
        return np.asarray(2 * self.correct.sum(axis=0) > len(self.correct))


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
    """Rows that most seeds of the second arm get wrong and most of the first right."""
    broken: int
    p: float
    """Of an exact two-sided sign test over rows: how often each is right, over its seeds."""
    rows: int
    seeds: int

    @property
    def word(self) -> str:
        """`better`, `harmful` or `no difference shown`: by accuracy, where interval and sign test agree.

        One seed shows no difference: how much of it is the noise of training is not known.
        """
        if self.seeds < 2 or self.p >= SIGNIFICANT or self.accuracy.low <= 0 <= self.accuracy.high:
            return NONE
        return BETTER if self.accuracy.value > 0 else HARMFUL

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
    before, after = other.mostly_right, one.mostly_right
    accuracy = interval(right)
    return Difference(
        accuracy=Interval(accuracy.value, max(-1.0, accuracy.low), min(1.0, accuracy.high)),
        loss=interval(one.losses.astype(np.float64) - other.losses),
        fixed=int((~before & after).sum()),
        broken=int((before & ~after).sum()),
        p=compare(one.correct.mean(axis=0), other.correct.mean(axis=0)).p,
        rows=right.shape[1],
        seeds=len(right),
    )


def interval(paired: Float[np.ndarray, "seeds rows"]) -> Interval:
    """The mean of paired differences and its 95% interval, over another choice of seeds and of test rows.

    mean +- t * sqrt(variance of the seeds' means / seeds + variance of the rows' means / rows), t of seeds - 1 degrees
    of freedom. All rows of a seed share one training, so rows tell nothing of its noise: few seeds give wide intervals,
    and that is meant (a bootstrap over two seeds called the noise of training a difference). What seeds and rows have
    in common is counted twice, which errs to the wide side, too. Of one seed the interval is over rows alone.
    """
    seeds, rows = paired.shape
    mean = float(paired.mean())
    of_rows = paired.mean(axis=0).var(ddof=1) / rows if rows > 1 else 0.0
    of_seeds = paired.mean(axis=1).var(ddof=1) / seeds if seeds > 1 else 0.0
    half = float(student.ppf(0.975, max(1, (seeds if seeds > 1 else rows) - 1)) * np.sqrt(of_rows + of_seeds))
    return Interval(mean, mean - half, mean + half)


def by_part(one: Told, other: Told, parts: Mapping[str, np.ndarray]) -> dict[str, Difference]:
    """The difference on each part of the test rows."""
    return {name: difference(one.of(rows), other.of(rows)) for name, rows in parts.items() if len(rows)}
