"""Two arms compared: paired differences over seeds and test rows, with intervals, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from headwater.remedies.removal import SIGNIFICANT, compare

DRAWS = 2_000  # of the bootstrap
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

    @property
    def word(self) -> str:
        """`better`, `harmful` or `no difference shown`: by accuracy, where interval and sign test agree."""
        if self.p >= SIGNIFICANT or self.accuracy.low <= 0 <= self.accuracy.high:
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
            "word": self.word,
        }


def difference(one: Told, other: Told) -> Difference:
    """Compare two arms whose seeds and rows are the same, in the same order."""
    right = one.correct.astype(np.float64) - other.correct
    before, after = other.mostly_right, one.mostly_right
    return Difference(
        accuracy=interval(right),
        loss=interval(one.losses.astype(np.float64) - other.losses),
        fixed=int((~before & after).sum()),
        broken=int((before & ~after).sum()),
        p=compare(one.correct.mean(axis=0), other.correct.mean(axis=0)).p,
        rows=right.shape[1],
    )


def interval(paired: Float[np.ndarray, "seeds rows"], draws: int = DRAWS) -> Interval:
    """The mean of paired differences and its 95% interval: seeds and rows are drawn anew, each with replacement.

    Drawing both sides of a crossed table is the pigeonhole bootstrap (Owen, 2007): it errs toward wide intervals. One
    seed alone is not drawn, so the noise of training is not in it.
    """
    seeds, rows = paired.shape
    generator = np.random.default_rng(0)
    by_row = generator.multinomial(rows, np.full(rows, 1 / rows), size=draws) / rows
    by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    means = ((by_seed @ paired) * by_row).sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(paired.mean()), float(low), float(high))


def by_part(one: Told, other: Told, parts: Mapping[str, np.ndarray]) -> dict[str, Difference]:
    """The difference on each part of the test rows."""
    return {name: difference(one.of(rows), other.of(rows)) for name, rows in parts.items() if len(rows)}
