"""Training rows that teach against clean, held-out rows: first suspects for a wrong label.

    harm(x) = - mean over labels y of mean over validation rows q labelled y of score(q, x)

The plain mean is "Mean" of Vitel & Chhabra (2026, arXiv 2511.04715): the lowest go first. It is taken label by label
because a rare label is where few validation rows speak, and in most corpora where wrong labels hurt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int64

from headwater.errors import UsageError

Aggregate = Literal["mean", "rank"]


@dataclass(frozen=True)
class Ranking:
    """Training rows, the most suspect first. `harm` [rows] is in the order of the corpus: larger is worse."""

    rows: Int64[np.ndarray, " rows"]
    harm: Float64[np.ndarray, " rows"]


def opponents_of(
    scores: Float[np.ndarray, "queries rows"],
    labels: Sequence[str | int] | None = None,
    *,
    aggregate: Aggregate = "mean",
) -> Ranking:
    """Rank training rows by how much they oppose the true labels of clean queries.

    `scores` come from `index.scores(validation, labels)`; `labels` are those true labels, and None counts every query
    alike whatever its label. `aggregate="rank"` averages each row's place among all rows instead of its score, so that
    no single query decides. Ties keep the corpus's order.

    Raises UsageError where there are no queries, or not as many labels as queries.
    """
    if scores.ndim != 2 or not len(scores):
        raise UsageError(f"scores must be [queries, rows] with at least one query, not {list(scores.shape)}.")
    if labels is not None and len(labels) != len(scores):
        raise UsageError(f"{len(scores)} queries but {len(labels)} labels: give one label a query.")
    names = np.asarray(["" if labels is None else str(label) for label in labels or [""] * len(scores)])
    harm = np.zeros(scores.shape[1], dtype=np.float64)
    groups = np.unique(names)
    for name in groups:
        group = scores[names == name]
        harm -= np.mean(_places(group) if aggregate == "rank" else group, axis=0, dtype=np.float64) / len(groups)
    return Ranking(np.argsort(-harm, kind="stable"), harm)


def _places(scores: Float[np.ndarray, "queries rows"]) -> Float64[np.ndarray, "queries rows"]:
    """Each row's place among all rows for each query, 0 for the lowest score to 1."""
    order = np.argsort(np.argsort(scores, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray(order / max(scores.shape[1] - 1, 1))
