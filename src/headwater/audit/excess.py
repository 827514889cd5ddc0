"""How many labels are wrong: how many more training rows than clean rows contradict models that never saw either.

    s(x) = largest p of another label - p of the given label            -1 (sure it is right) to 1 (sure it is wrong)
    n    = max over thresholds t of N * (share of training rows with s > t - share of clean rows with s > t)

A threshold counts where the difference is beyond chance: Fisher's exact test, one-sided, at 1% over all thresholds
together (Bonferroni). None counts: nothing to repair. The interval is Newcombe's (1998, method 10) at that threshold.
A row that the folds' models call right though it is wrong is not counted, so n is a cautious number.

The other way round, clean rows that are contradicted *more* than training rows say that the training rows follow a
rule which the clean rows do not (all spam with "call" filed under ham): the models learned it, so no training row
contradicts them, and only the influence on clean rows can tell which rows taught it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.stats import binomtest, fisher_exact

THRESHOLDS = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95)
ALPHA = 0.01


@dataclass(frozen=True)
class Excess:
    """About `count` of `rows` rows carry a wrong label, 95% `low` to `high`; 0 where nothing is beyond chance."""

    count: int
    low: int
    high: int
    rows: int
    threshold: float | None
    p: float
    """The smallest p-value times the number of thresholds."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


def contradiction(
    probabilities: Float[np.ndarray, "rows classes"], targets: Int[np.ndarray, " rows"]
) -> Float64[np.ndarray, " rows"]:
    """s of each row: how far another label is ahead of the given one."""
    others = np.array(probabilities, dtype=np.float64)
    rows = np.arange(len(targets))
    given = others[rows, targets].copy()
    others[rows, targets] = -np.inf
    return np.asarray(others.max(axis=1) - given)


def excess(
    train: Float[np.ndarray, " rows"],
    clean: Float[np.ndarray, "folds clean"],
    *,
    of: Literal["train", "clean"] = "train",
) -> Excess:
    """Compare s of the training rows with s of clean rows, under each fold's model (their mean share counts).

    `of` "clean" counts how many more clean rows are contradicted, as a number of training rows.
    """
    rows, there = len(train), clean.shape[1]
    best: tuple[int, int, int, float | None] = (0, 0, 0, None)
    smallest = 1.0
    for threshold in THRESHOLDS:
        found = int((train > threshold).sum())
        usual = round(float((clean > threshold).sum(axis=1).mean()))
        first, second = ((found, rows), (usual, there)) if of == "train" else ((usual, there), (found, rows))
        table = [[count, whole - count] for count, whole in (first, second)]
        p = float(fisher_exact(table, alternative="greater").pvalue)
        smallest = min(smallest, p)
        more = round(rows * (first[0] / first[1] - second[0] / second[1]))
        if p * len(THRESHOLDS) < ALPHA and more > best[0]:
            low, high = _newcombe(*first, *second)
            best = (more, max(round(rows * low), 0), round(rows * high), threshold)
    return Excess(best[0], best[1], best[2], rows, best[3], min(smallest * len(THRESHOLDS), 1.0))


def _newcombe(a: int, n: int, b: int, m: int) -> tuple[float, float]:
    first, second = (binomtest(k, of).proportion_ci(method="wilson") for k, of in ((a, n), (b, m)))
    p, q = a / n, b / m
    low = p - q - np.hypot(p - first.low, second.high - q)
    high = p - q + np.hypot(first.high - p, q - second.low)
    return float(low), float(high)
