"""Would the same method on another seed's run say the same? What is not stable explains a run, not the data.

stability(q)  = mean over pairs of seeds of Spearman( score_s(q, .), score_t(q, .) )
overlap@k(q)  = mean over pairs of seeds of | top k of s and top k of t | / k          chance: k / rows
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from jaxtyping import Float, Float64

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import checked
from headwater.evaluation.metrics.correlation import spearman
from headwater.evaluation.metrics.ranking import top_rows

Scores = Float[np.ndarray, "seeds queries rows"]


def stability(scores: Scores) -> Float64[np.ndarray, " queries"]:
    """Mean rank correlation between seeds, over all rows, for each query.

    A pair in which one side's scores are all equal counts 0; NaN for a query where every seed's are. Raises UsageError.
    """
    scores = _checked(scores)
    found = np.empty(scores.shape[1], dtype=np.float64)
    for query in range(scores.shape[1]):
        own = scores[:, query]
        values = np.array([spearman(own[one], own[other]) for one, other in _pairs(len(own))])
        silent = (np.ptp(own, axis=1) == 0).all()
        found[query] = np.nan if silent else np.where(np.isnan(values), 0.0, values).mean()
    return found


def top_overlap(scores: Scores, *, k: int = 10, seed: int = 0) -> Float64[np.ndarray, " queries"]:
    """Mean share of the top k rows that two seeds have in common, for each query. Raises UsageError.

    Ties are shuffled, for each seed anew: rows that a method cannot tell apart are no agreement.
    """
    scores = _checked(scores)
    tops = [top_rows(one, k, seed=seed + number) for number, one in enumerate(scores)]
    shared = [
        [len(np.intersect1d(mine, theirs)) / k for mine, theirs in zip(tops[one], tops[other], strict=True)]
        for one, other in _pairs(len(scores))
    ]
    return np.asarray(np.mean(shared, axis=0))


def _pairs(seeds: int) -> Iterator[tuple[int, int]]:
    return combinations(range(seeds), 2)


def _checked(scores: Scores) -> Scores:
    scores = checked("scores", scores, "seeds queries rows")
    if len(scores) < 2 or scores.shape[2] < 2:
        raise UsageError("stability needs scores of at least 2 seeds and 2 rows.")
    return scores
