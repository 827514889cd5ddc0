"""Correlations along the last axis, for many series at once.

    pearson(a, b)  = <a - mean(a), b - mean(b)> / (|a - mean(a)| |b - mean(b)|)
    spearman(a, b) = pearson(ranks of a, ranks of b)          equal values share the mean of their ranks

As scipy.stats.pearsonr and spearmanr, which take one pair at a time; where one side is constant, NaN without a warning.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64
from scipy.stats import rankdata


def pearson(one: Float[np.ndarray, "*many n"], other: Float[np.ndarray, "*many n"]) -> Float64[np.ndarray, "*many"]:
    """Linear correlation; NaN where either side is constant."""
    left, right = _centred(one), _centred(other)
    above = (left * right).sum(axis=-1)
    below = np.sqrt((left**2).sum(axis=-1) * (right**2).sum(axis=-1))
    known = (np.ptp(one, axis=-1) > 0) & (np.ptp(other, axis=-1) > 0) & (below > 0)
    return np.asarray(np.where(known, np.clip(above / np.where(known, below, 1.0), -1.0, 1.0), np.nan))


def spearman(one: Float[np.ndarray, "*many n"], other: Float[np.ndarray, "*many n"]) -> Float64[np.ndarray, "*many"]:
    """Rank correlation with average ranks of ties; NaN where either side is constant."""
    return pearson(rankdata(one, axis=-1), rankdata(other, axis=-1))


def merged_ties(values: Float[np.ndarray, " n"], tolerance: float) -> Float64[np.ndarray, " n"]:
    """Numbers in the same order, where values that differ by no more than `tolerance` from the next are made equal.

    Sums of equal terms in another order differ in their last bits: without this they would be ranked by chance.
    """
    order = np.argsort(values, kind="stable")
    groups = np.concatenate([[0], np.cumsum(np.diff(values[order]) > tolerance)])
    made = np.empty(len(values), dtype=np.float64)
    made[order] = groups
    return made


def _centred(values: Float[np.ndarray, "*many n"]) -> Float64[np.ndarray, "*many n"]:
    wide = np.asarray(values, dtype=np.float64)
    middle = wide - wide.mean(axis=-1, keepdims=True)
    largest = np.abs(middle).max(axis=-1, keepdims=True)  # squares of tiny or huge numbers would not fit
    return np.asarray(middle / np.where(largest > 0, largest, 1.0))
