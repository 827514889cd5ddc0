"""Correlation over groups of rows, as UnTrac is graded: which source of data did a query (or a test set) learn from?

    r(q) = Pearson over groups g ( sum of score(q, i) over the rows i of g,
                                   E[ loss(q; trained without g) ] - E[ loss(q; trained on all) ] )

Leave-one-out with whole groups: their effects stand out from the noise of retraining, but few groups give few points.
Of a test set, give the mean of its queries' scores and losses as one query.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import checked, same_length
from headwater.evaluation.metrics.leave_one_out import leave_one_out


def group_scores(
    scores: Float[np.ndarray, "queries rows"], groups: Sequence[Sequence[int]]
) -> Float64[np.ndarray, "queries groups"]:
    """The sum of each group's scores. Raises UsageError for a group without rows, or with rows that are not there."""
    scores = checked("scores", scores, "queries rows")
    sums = np.empty((len(scores), len(groups)), dtype=np.float64)
    for number, group in enumerate(groups):
        rows = np.unique(np.asarray(group, dtype=np.int64))
        if not rows.size or rows[0] < 0 or rows[-1] >= scores.shape[1]:
            raise UsageError(f"group {number} (from 0) must hold rows from 0 to {scores.shape[1] - 1:,}, at least one.")
        sums[:, number] = scores[:, rows].sum(axis=1, dtype=np.float64)
    return sums


def pearson_over_groups(
    scores: Float[np.ndarray, "queries rows"],
    groups: Sequence[Sequence[int]],
    effects: Float[np.ndarray, "queries groups"],
) -> Float64[np.ndarray, " queries"]:
    """Pearson over groups, for each query; `leave_one_out.effects` makes `effects` of losses.

    NaN and 0 as `leave_one_out` has them. Raises UsageError.
    """
    same_length(groups=len(groups), effects=np.shape(effects)[-1])
    return leave_one_out(group_scores(scores, groups), effects)
