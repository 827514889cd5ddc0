"""Scores over an index that grew: of the rows that live, in the order of their corpus.

A method scores the rows as they are stored, dead ones among them; here stored rows become rows of the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from headwater.attribution.question import AskedQuestion
from headwater.methods import Contributions, Scorer


@dataclass(frozen=True)
class LivingScorer:
    """See `methods.Scorer`. `stored` is the stored row of every row of the corpus, of `rows` that are stored."""

    scorer: Scorer
    stored: Int64[np.ndarray, "living"]
    rows: int

    def score(self, out: Float32[np.ndarray, "queries living"]) -> None:
        """Write the score of every query with every row of the corpus into `out`, which holds zeros."""
        scores = np.zeros((len(out), self.rows), dtype=np.float32)
        self.scorer.score(scores)
        np.take(scores, self.stored, axis=1, out=out)

    def rounding(self) -> Float64[np.ndarray, "queries"]:
        """Return a bound on the error of the scores of `score`, against what `explain` gives."""
        return self.scorer.rounding()

    def exact(self, query: int, rows: Int64[np.ndarray, "r"]) -> Float64[np.ndarray, "r"]:
        """Return a query's scores with `rows` in float64 and in a fixed order."""
        return self.scorer.exact(query, self.stored[rows])

    def explain(self, query: int, rows: Int64[np.ndarray, "r"]) -> Contributions:
        """Take a query's scores with `rows` apart, in float64 and in a fixed order."""
        found = self.scorer.explain(query, self.stored[rows])
        number = np.full(self.rows, -1)
        number[self.stored[rows]] = rows
        return replace(found, rows=number[found.rows])


def prepared(question: AskedQuestion, options: Any) -> Scorer:
    """Make a block of queries ready to be compared with every row of the corpus."""
    scorer = question.method.prepare(question, options)
    store = question.token_store if question.method.need == "tokens" else None
    if store is None or store.living is None:
        return scorer
    return LivingScorer(scorer, store.living, store.manifest.rows)


def as_stored(scorer: Scorer) -> Scorer:
    """Return the scorer of the stored rows, dead ones among them."""
    return scorer.scorer if isinstance(scorer, LivingScorer) else scorer
