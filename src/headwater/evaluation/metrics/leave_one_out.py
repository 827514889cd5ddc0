"""Leave-one-out correlation (Koh & Liang 2017, arXiv 1703.04730): the plainest truth, for small data.

    effect(q, i) = E[ loss(q; trained without row i) ] - E[ loss(q; trained on all) ]     positive: row i helped q
    LOO(q)       = correlation over rows i of score(q, i) and effect(q, i);  then the mean over queries

E is over seeds. One row moves a deep model less than another seed does, so that without many seeds the effects are
noise and no method correlates with them: see `stability` of the effects of two halves of the seeds.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Float64

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import checked, same_length
from headwater.evaluation.metrics.correlation import pearson, spearman

Kind = Literal["pearson", "spearman"]
_KINDS = {"pearson": pearson, "spearman": spearman}


def effects(
    losses_without: Float[np.ndarray, "removals seeds queries"], losses_all: Float[np.ndarray, "seeds queries"]
) -> Float64[np.ndarray, "queries removals"]:
    """What leaving out did to each query's loss: a row, or a group of rows, a removal. Raises UsageError."""
    without = checked("losses_without", losses_without, "removals seeds queries")
    everything = checked("losses_all", losses_all, "seeds queries")
    same_length(losses_without=without.shape[2], losses_all=everything.shape[1])
    return np.asarray(without.mean(axis=1, dtype=np.float64).T - everything.mean(axis=0, dtype=np.float64)[:, None])


def leave_one_out(
    scores: Float[np.ndarray, "queries removals"],
    found: Float[np.ndarray, "queries removals"],
    *,
    kind: Kind = "pearson",
) -> Float64[np.ndarray, " queries"]:
    """Correlation of scores and effects, for each query. `scores` hold only the columns of the rows left out.

    NaN where all effects of a query are equal: it grades nobody. Where all its scores are, it counts 0. Raises
    UsageError for fewer than 2 removals, shapes that differ, or numbers that are none.
    """
    scores, found = checked("scores", scores, "queries removals"), checked("effects", found, "queries removals")
    if kind not in _KINDS:
        raise UsageError(f"kind {kind!r} is not one of {', '.join(_KINDS)}.")
    same_length(scores=len(scores), effects=len(found))
    same_length(scores=scores.shape[1], effects=found.shape[1])
    if scores.shape[1] < 2:
        raise UsageError("a correlation needs at least 2 removals.")
    values = _KINDS[kind](scores, found)
    silent = np.isnan(values) & (np.ptp(found, axis=1) > 0)
    return np.asarray(np.where(silent, 0.0, values))
