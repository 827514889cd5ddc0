"""Hubness (Radovanovic et al. 2010, JMLR 11): do all queries get the same few rows?

    distinct = different rows in the top-k lists of all queries      of queries * k places
    largest  = share of the lists that hold the commonest row        1: one row is in every list

Dot products of gradients favour rows with a large norm whatever is asked. Random lists have
rows * (1 - (1 - k / rows)^queries) different rows in the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headwater.evaluation.metrics.arrays import checked
from headwater.evaluation.metrics.ranking import top_rows


@dataclass(frozen=True)
class Hubness:
    """What the top-k lists of all queries have in common."""

    distinct: int
    """Different rows in them."""
    places: int
    """How many they could be: queries times k."""
    by_chance: float
    """How many random lists would have, in the mean."""
    row: int
    """The commonest row; of equally common ones the first."""
    largest: float
    """Share of the lists that hold it."""


def hubness(scores: Float[np.ndarray, "queries rows"], *, k: int = 20, seed: int = 0) -> Hubness:
    """Count the rows of the top-k lists. Ties are shuffled, for each query anew. Raises UsageError."""
    scores = checked("scores", scores, "queries rows")
    queries, rows = scores.shape
    lists = np.concatenate([top_rows(scores[query : query + 1], k, seed=seed + query) for query in range(queries)])
    counts = np.bincount(lists.ravel(), minlength=rows)
    return Hubness(
        distinct=int((counts > 0).sum()),
        places=queries * k,
        by_chance=rows * (1 - (1 - k / rows) ** queries),
        row=int(counts.argmax()),
        largest=float(counts.max() / queries),
    )
