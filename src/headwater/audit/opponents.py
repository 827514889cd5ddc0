"""Training rows that teach against clean, held-out rows: first suspects for a wrong label.

    harm(x) = - mean over labels y of mean over validation rows q labelled y of v(q, x)

v is score(q, .) scaled to unit length over the training rows, so that every query has an equal say ("unit"); or the
row's place among them, 0 to 1 ("rank"), or the score itself ("mean"), as in Vitel & Chhabra (2026, arXiv 2511.04715).
The mean is taken label by label because most queries carry the common label, and wrong labels mostly hurt the rare
one. Give it scores divided by the norm of the training row (`normalize="train"`): else a few hubs lead every list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Int64

from headwater.errors import UsageError

Aggregate = Literal["unit", "rank", "mean"]


@dataclass(frozen=True)
class Ranking:
    """Training rows, the most suspect first. `harm` [rows] is in the order of the corpus: larger is worse."""

    rows: Int64[np.ndarray, " rows"]
    harm: Float64[np.ndarray, " rows"]


def opponents_of(
    scores: Float[np.ndarray, "queries rows"],
    labels: Sequence[str | int] | None = None,
    *,
    aggregate: Aggregate = "unit",
) -> Ranking:
    """Rank training rows by how much they oppose the true labels of clean queries.

    `scores` come from `index.scores(validation, labels, normalize="train")`; `labels` are those true labels, and None
    counts every query alike whatever its label. Ties keep the corpus's order.

    Raises UsageError for an unknown aggregate, or where there are no queries, or not as many labels as queries.
    """
    if scores.ndim != 2 or not len(scores):
        raise UsageError(f"scores must be [queries, rows] with at least one query, not {list(scores.shape)}.")
    if labels is not None and len(labels) != len(scores):
        raise UsageError(f"{len(scores)} queries but {len(labels)} labels: give one label a query.")
    if aggregate not in _VOICES:
        raise UsageError(f"aggregate {aggregate!r} is not one of {', '.join(_VOICES)}.")
    names = np.asarray(["" if labels is None else str(label) for label in labels or [""] * len(scores)])
    harm = np.zeros(scores.shape[1], dtype=np.float64)
    groups = np.unique(names)
    for name in groups:
        voices = _VOICES[aggregate](scores[names == name])
        harm -= np.mean(voices, axis=0, dtype=np.float64) / len(groups)
    return Ranking(np.argsort(-harm, kind="stable"), harm)


def _places(scores: Float[np.ndarray, "queries rows"]) -> Float64[np.ndarray, "queries rows"]:
    """Each row's place among all rows for each query, 0 for the lowest score to 1."""
    order = np.argsort(np.argsort(scores, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray(order / max(scores.shape[1] - 1, 1))


def _unit(scores: Float[np.ndarray, "queries rows"]) -> Float64[np.ndarray, "queries rows"]:
    """Scale each query's scores to unit length; a query that no row speaks to stays silent."""
    lengths = np.linalg.norm(scores.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(scores / np.where(lengths > 0, lengths, 1.0))


_VOICES: dict[str, Callable[[Any], Any]] = {"unit": _unit, "rank": _places, "mean": lambda scores: scores}
