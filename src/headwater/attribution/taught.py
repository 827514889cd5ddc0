"""What rows taught through one token: the sum of its postings."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from headwater.methods import TokenPart
from headwater.store import Store

POSTINGS = 16_384  # vectors that are decoded at a time


def taught(part: TokenPart, token: int, rows: Int64[np.ndarray, " r"] | None = None) -> Float64[Tensor, " d"]:
    """Add up what these rows of the corpus (None: all) pushed through a token at one checkpoint, in float64."""
    row_of = row_of_stored(part.store)
    total = torch.zeros(part.queries.dimension, dtype=torch.float64)
    for segment in part.store.segments(part.checkpoint):
        where = segment.postings.span(token)
        here = row_of[segment.postings.rows[where].astype(np.int64) + segment.rows.start]
        places = np.arange(where.start, where.stop)[here >= 0 if rows is None else np.isin(here, rows)]
        for start in range(0, len(places), POSTINGS):
            total += segment.postings.gradients(places[start : start + POSTINGS]).double().sum(dim=0)
    return total


def row_of_stored(store: Store) -> Int64[np.ndarray, " stored"]:
    """Return the corpus' row of each stored one; -1: it is no more."""
    count = store.manifest.rows
    if store.living is None:
        return np.arange(count)
    found = np.full(count, -1, dtype=np.int64)
    found[np.asarray(store.living)] = np.arange(len(store.living))
    return found
