"""Fact tracing: do the rows that state a fact stand at the top of its list? (Chang et al. 2024, arXiv 2410.17413)

    MRR         = mean over queries of 1 / rank of the first right row      0 where it is not among the first `depth`
    hit@k       = share of queries with a right row among the first k       TrackStar's "recall@10"
    recall@k    = mean share of a query's right rows among the first k
    precision@k = mean share of right rows among the first k

Rows that state a fact need not be those that taught it: these metrics prefer lexical search, tail-patch does not. Rows
with equal scores stand in a shuffled order (`ranking`). A query without any right row has no value (NaN).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import checked
from headwater.evaluation.metrics.ranking import top_rows

Scores = Float[np.ndarray, "queries rows"]
Right = Bool[np.ndarray, "queries rows"]


def reciprocal_rank(
    scores: Scores, right: Right, *, depth: int | None = None, seed: int = 0
) -> Float64[np.ndarray, " queries"]:
    """1 / rank of the first right row of each query; `depth` None looks through all rows. Raises UsageError."""
    found = _among_first(scores, right, np.shape(scores)[-1] if depth is None else depth, seed)
    rank = found.argmax(axis=1) + 1.0
    return _known(np.where(found.any(axis=1), 1.0 / rank, 0.0), right)


def hit(scores: Scores, right: Right, *, k: int = 10, seed: int = 0) -> Float64[np.ndarray, " queries"]:
    """Return 1 where any of the first k rows is right, else 0. Raises UsageError."""
    return _known(np.any(_among_first(scores, right, k, seed), axis=1), right)


def recall(scores: Scores, right: Right, *, k: int = 10, seed: int = 0) -> Float64[np.ndarray, " queries"]:
    """Share of the right rows that stand among the first k. Raises UsageError."""
    found = _among_first(scores, right, k, seed).sum(axis=1)
    return _known(found / np.maximum(np.asarray(right).sum(axis=1), 1), right)


def precision(scores: Scores, right: Right, *, k: int = 10, seed: int = 0) -> Float64[np.ndarray, " queries"]:
    """Share of the first k rows that are right. Raises UsageError."""
    return _known(_among_first(scores, right, k, seed).mean(axis=1), right)


def _among_first(scores: Scores, right: Right, k: int, seed: int) -> Bool[np.ndarray, "queries k"]:
    right = checked("right", right, "queries rows")
    if right.dtype != np.bool_ or right.shape != np.shape(scores):
        raise UsageError(
            f"right must be bool of the scores' shape {list(np.shape(scores))}, not {right.dtype} {list(right.shape)}."
        )
    return np.asarray(np.take_along_axis(right, top_rows(scores, k, seed=seed), axis=1))


def _known(values: Any, right: Right) -> Float64[np.ndarray, " queries"]:
    return np.asarray(np.where(np.asarray(right).any(axis=1), values, np.nan), dtype=np.float64)
