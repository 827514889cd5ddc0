"""Tf-idf overlap times whether the labels agree: the baseline without a model that gradients must beat.

    score(q, x) = tfidf(q, x) * (1 where the label of x is the class that is explained of q, else -1)

tfidf(q, x) is the cosine of the two texts' tf-idf vectors (see `texts`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from headwater.methods.method import Question
from headwater.methods.texts import TfIdf, agreement
from headwater.methods.whole import Whole


@dataclass(frozen=True)
class TfIdfLabel:
    """It has no options."""


def prepare(question: Question, options: TfIdfLabel) -> Whole:
    """Weigh words by the training rows."""
    words, agrees = TfIdf.of(question), agreement(question)

    def of(query: int) -> Float64[np.ndarray, "rows"]:
        found: Float64[np.ndarray, "rows"] = words(slice(query, query + 1), slice(None))[0] * agrees(query)
        return found

    return Whole(len(question.queries), of)
