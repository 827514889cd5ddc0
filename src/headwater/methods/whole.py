"""Scores that are computed a query at a time, in float64, with every row: for methods that read no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from headwater.methods.parts import Contributions

_FLOOR = 2.0**-149  # float32 has no smaller steps


@dataclass(frozen=True)
class Whole:
    """A scorer (see `Scorer`) of a function that gives a query's scores with all rows."""

    queries: int
    of: Callable[[int], Float64[np.ndarray, "rows"]]

    def score(self, out: Float32[np.ndarray, "queries rows"]) -> None:
        """Write the scores, rounded to float32."""
        for query in range(self.queries):
            out[query] = self.of(query)

    def rounding(self) -> Float64[np.ndarray, "queries"]:
        """Bound the error of rounding once to float32."""
        largest = [np.abs(self.of(query)).max(initial=0.0) for query in range(self.queries)]
        return np.array(largest) * 2.0**-24 + _FLOOR

    def exact(self, query: int, rows: Int64[np.ndarray, "r"]) -> Float64[np.ndarray, "r"]:
        """Return a query's scores with `rows`."""
        found: Float64[np.ndarray, "r"] = self.of(query)[rows]
        return found

    def explain(self, query: int, rows: Int64[np.ndarray, "r"]) -> Contributions:
        """Give a query's scores with `rows` in float64: the whole text's, for they have no words."""
        return Contributions.whole(rows, self.exact(query, rows))
