"""Planted wrong labels, and how early a score finds them (Vitel & Chhabra 2026, arXiv 2511.04715).

Rows are sorted by score, the lowest first (the most harmful); `planted` is True for rows whose label was flipped.

    NDR@p    = wrong labels among the lowest p% of rows / all wrong labels       a recall: a random order gives p%
    AUC_NDR  = area under that curve / (wrong / 2 + right)                       perfect 1; random at 20% wrong 0.556
    AUC      = P( a wrong row scores below a right one ), ties count half        the usual area under the ROC curve
    win rate = mean over rivals of the share of trials (task, seed) won          ties count half

The area is that of the trapezoids, with which a perfect order gets exactly 1. Rows with equal scores count as the mean
over all orders of them: a constant score gets exactly what a random one gets. For a score that is high for suspects
(self-influence), give its negative.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.stats import rankdata

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import checked, same_length


def detection_curve(
    scores: Float[np.ndarray, " rows"], planted: Bool[np.ndarray, " rows"]
) -> Float64[np.ndarray, " rows+1"]:
    """Share of the wrong labels among the n lowest rows, for n = 0 to all. Raises UsageError if there are none."""
    scores, planted = _checked(scores, planted)
    counts, found = _knots(scores, planted)
    return np.asarray(np.interp(np.arange(len(scores) + 1), counts, found))


def ndr(scores: Float[np.ndarray, " rows"], planted: Bool[np.ndarray, " rows"], *, percent: float = 30.0) -> float:
    """NDR@percent; where that is no whole number of rows, the curve is followed in between. Raises UsageError."""
    scores, planted = _checked(scores, planted)
    if not 0 < percent <= 100:
        raise UsageError(f"percent must be above 0 and at most 100, not {percent}.")
    counts, found = _knots(scores, planted)
    return float(np.interp(percent / 100 * len(scores), counts, found))


def auc_ndr(scores: Float[np.ndarray, " rows"], planted: Bool[np.ndarray, " rows"]) -> float:
    """AUC_NDR: 1 for a perfect order; a random one gets 1 / (2 - share of wrong rows). Raises UsageError."""
    scores, planted = _checked(scores, planted)
    wrong = int(planted.sum())
    counts, found = _knots(scores, planted)
    return float(np.trapezoid(found, counts) / (wrong / 2 + len(planted) - wrong))


def mislabel_auc(scores: Float[np.ndarray, " rows"], planted: Bool[np.ndarray, " rows"]) -> float:
    """Area under the ROC curve of the order: 1 perfect, 0.5 random. Raises UsageError without right rows as well."""
    scores, planted = _checked(scores, planted)
    wrong = int(planted.sum())
    right = len(planted) - wrong
    if not right:
        raise UsageError("every row is planted: there is nothing to tell them from.")
    above = rankdata(scores)[~planted].sum() - right * (right + 1) / 2  # pairs in which the right row is higher
    return float(above / (wrong * right))


def win_rate(values: Float[np.ndarray, "methods trials"]) -> Float64[np.ndarray, " methods"]:
    """Win rate of each method; larger values win. A trial that either of two lacks (NaN) does not count between them.

    NaN for a method that shares no trial with any rival. Raises UsageError for fewer than 2 methods.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise UsageError(f"values must be [methods, trials] of at least 2 methods, not {list(values.shape)}.")
    rates = np.full((len(values), len(values)), np.nan)
    for one in range(len(values)):
        for other in range(len(values)):
            met = ~np.isnan(values[one] + values[other])
            if one != other and met.any():
                mine, theirs = values[one, met], values[other, met]
                rates[one, other] = np.mean((mine > theirs) + 0.5 * (mine == theirs))
    rivals = (~np.isnan(rates)).sum(axis=1)
    return np.asarray(np.where(rivals > 0, np.nansum(rates, axis=1) / np.maximum(rivals, 1), np.nan))


def _knots(
    scores: Float[np.ndarray, " rows"], planted: Bool[np.ndarray, " rows"]
) -> tuple[Float64[np.ndarray, " knots"], Float64[np.ndarray, " knots"]]:
    """Where groups of equal scores end: rows so far, and the share of wrong labels among them; from (0, 0)."""
    order = np.argsort(scores, kind="stable")
    ordered, wrong = scores[order], np.cumsum(planted[order])
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return np.append(0.0, ends + 1.0), np.append(0.0, wrong[ends] / wrong[-1])


def _checked(scores: Float[np.ndarray, " rows"], planted: Bool[np.ndarray, " rows"]) -> tuple[np.ndarray, np.ndarray]:
    scores, planted = checked("scores", scores, "rows"), checked("planted", planted, "rows")
    same_length(scores=len(scores), planted=len(planted))
    if planted.dtype != np.bool_ or not planted.any():
        raise UsageError("planted must be bool, one a row, and True for at least one: the rows with a wrong label.")
    return scores, planted
