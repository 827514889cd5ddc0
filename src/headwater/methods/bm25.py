"""BM25: which rows share the query's words (Robertson & Zaragoza 2009, The Probabilistic Relevance Framework).

    score(q, x) = sum_{w in q}  idf_w * tf / (tf + k1 (1 - b + b |x| / mean |x|))
    idf_w       = ln(1 + (n - df + 1/2) / (df + 1/2))

tf is how often w stands in x, df in how many of the n rows; a word that stands twice in q counts twice. This idf, never
negative, is Lucene's. `bm25-label` takes the score times 1 where the row's label is the class that is explained of the
query, and times -1 where it is another. Words: see `texts`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from headwater.errors import UsageError
from headwater.methods.method import Question
from headwater.methods.texts import agreement, text_of, words_of
from headwater.methods.whole import Whole


@dataclass(frozen=True)
class BM25:
    """Options of BM25."""

    k1: float = field(default=1.5, metadata={"help": "How soon more of the same word stops to count."})
    b: float = field(default=0.75, metadata={"help": "How much long rows are discounted, 0 to 1."})

    def __post_init__(self) -> None:
        if not 0 <= self.k1 < float("inf"):
            raise UsageError(f"k1 must be 0 or more; it is {self.k1}.")
        if not 0 <= self.b <= 1:
            raise UsageError(f"b must be 0 to 1; it is {self.b}.")


def prepare(question: Question, options: BM25) -> Whole:
    """Index the training rows' words."""
    task = question.run.task
    rows = [words_of(text_of(task, example)) for example in question.corpus]
    numbers: dict[str, int] = {}
    ids = [[numbers.setdefault(word, len(numbers)) for word in row] for row in rows]
    asked = [words_of(text_of(task, example)) for example in question.queries]
    known = [[numbers[word] for word in words if word in numbers] for words in asked]
    index = _index(ids, numbers, options) if numbers else None

    def of(query: int) -> Float64[np.ndarray, "rows"]:
        if index is None or not known[query]:
            return np.zeros(len(rows))
        found: Float64[np.ndarray, "rows"] = index.get_scores_from_ids(known[query])
        return found

    return Whole(len(asked), of)


def prepare_label(question: Question, options: BM25) -> Whole:
    """Turn the sign of rows whose label is not the query's."""
    plain, agrees = prepare(question, options), agreement(question)
    return Whole(plain.queries, lambda query: plain.of(query) * agrees(query))


def _index(ids: list[list[int]], numbers: dict[str, int], options: BM25) -> Any:
    import bm25s

    index = bm25s.BM25(k1=options.k1, b=options.b, method="lucene", dtype="float64")
    index.index((ids, numbers), show_progress=False)
    return index
