"""What every method over stored token gradients is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from headwater.gradients import PlaceGradients
from headwater.store import Postings, Store, StoredCheckpoint


@dataclass(frozen=True)
class Part:
    """One checkpoint of one run: its stored rows, and what the queries pushed there.

    A method's score is a sum over parts, so several checkpoints and several runs (seeds) are the same thing to it.
    """

    store: Store
    checkpoint: StoredCheckpoint
    weight: float
    """The checkpoint's weight, over the number of runs that are averaged."""
    queries: Postings
    """Token gradients of the queries, float32; their `rows` are query numbers."""
    places: PlaceGradients
    """The same gradients place by place, before they were folded."""


@dataclass(frozen=True)
class Contributions:
    """A query's scores with some rows, taken apart: one entry a (row, train token, place in the query, checkpoint).

    The values of a row add up to its score.
    """

    rows: Int64[np.ndarray, "c"]
    train_tokens: Int64[np.ndarray, "c"]
    query_tokens: Int64[np.ndarray, "c"]
    places: Int64[np.ndarray, "c"]
    cosines: Float64[np.ndarray, "c"]
    """1 for the same token, less for a synonym."""
    values: Float64[np.ndarray, "c"]

    def scores(self, rows: Int64[np.ndarray, "r"]) -> Float64[np.ndarray, "r"]:
        """Add up the values of each row, in float64 and in their order."""
        totals = np.zeros(len(rows))
        order = np.argsort(rows)
        np.add.at(totals, order[np.searchsorted(rows, self.rows, sorter=order)], self.values)
        return totals
