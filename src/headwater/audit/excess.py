"""How many labels are wrong: training rows beside clean rows, both judged by models that never saw them.

    s(x, y) = largest p of another label - p of y               -1 (sure y is right) to 1 (sure y is wrong)
    d(x, y) = max(s, 0)^2                                       0 unless models contradict y, more the surer they are
    mean of d over training texts = (1 - e) * right + e * wrong,      e = (train - right) / (wrong - right)

`right` is the mean of d over clean texts with their own labels, `wrong` over the same with every other label: what d is
where a label is drawn at random among the others. Any d gives such an e; this one was chosen because it finds few wrong
labels among many (SST-2, AG News and SMS with 0 to 10% flipped): how sure models are of what is right is only noise.
A text has one voice on either side, and counts once, however many rows hold it (d is then their mean): else what is
said often would drown the rest. e is the share of wrong labels, n = e * texts; its interval is that of Welch's t.
Nothing is said (n = 0) unless the difference is beyond chance: one-sided, at 1%.

The other way round, clean rows that are contradicted *more* than training rows say that the training rows follow a
rule which the clean rows do not (all spam with "call" filed under ham): the models learned it, so no training row
contradicts them, and only the influence on clean rows can tell which rows taught it. Not every kind of model follows
every rule, so each is asked by itself. Texts of which training holds near-copies are easier, too, so this is said at
0.3% only, divided by the kinds of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.stats import ttest_ind

ALPHA = {"train": 0.01, "clean": 0.003}


@dataclass(frozen=True)
class Excess:
    """About `count` of `rows` training rows, 95% `low` to `high`.

    Where nothing is beyond chance `count` and `low` are 0, and `high` says how many may hide for all that.
    """

    count: int
    low: int
    high: int
    rows: int
    p: float
    """Of Welch's one-sided t-test."""

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


def doubt(
    probabilities: Float[np.ndarray, "rows classes"], targets: Int[np.ndarray, " rows"]
) -> Float64[np.ndarray, " rows"]:
    """d of each row: how surely its label is contradicted."""
    return np.asarray(np.maximum(contradiction(probabilities, targets), 0) ** 2)


def if_wrong(
    probabilities: Float[np.ndarray, "rows classes"], targets: Int[np.ndarray, " rows"]
) -> Float64[np.ndarray, " rows"]:
    """Mean d of each row over all labels but its own."""
    classes = probabilities.shape[1]
    every = np.stack([doubt(probabilities, np.full(len(targets), label)) for label in range(classes)], axis=1)
    every[np.arange(len(targets)), targets] = 0
    return np.asarray(every.sum(axis=1) / (classes - 1))


def excess(
    train: Float[np.ndarray, " texts"],
    right: Float[np.ndarray, " clean"],
    wrong: Float[np.ndarray, " clean"],
    *,
    rows: int | None = None,
    tests: int = 1,
    of: Literal["train", "clean"] = "train",
) -> Excess:
    """Count wrong labels by d of the training texts, and of clean ones with right and with wrong labels.

    `rows`: how many rows hold the training texts (None: one each). `tests`: of how many tests this is one (Bonferroni).
    `of` "clean" counts how many more clean texts are contradicted, as a number of training texts. Models that cannot
    tell right labels from wrong ones count nothing.
    """
    texts, rows = len(train), len(train) if rows is None else rows
    gap = float(np.mean(wrong) - np.mean(right))
    if min(texts, len(right)) < 2 or gap <= 0:
        return Excess(0, 0, 0, rows, 1.0)
    first, second = (train, right) if of == "train" else (right, train)
    test = ttest_ind(first, second, equal_var=False, alternative="greater")
    between = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    middle, low, high = (
        min(max(round(texts * float(value) / gap), 0), texts)
        for value in np.nan_to_num([np.mean(first) - np.mean(second), between.low, between.high])
    )
    if not test.pvalue < ALPHA[of] / tests:
        return Excess(0, 0, high, rows, float(np.nan_to_num(test.pvalue, nan=1.0)))
    return Excess(max(middle, 1), low, high, rows, float(test.pvalue))
