"""TR-TFIDF: TracIn on the last layer with words in place of features (a baseline of Yeh et al. 2022, 2202.11844).

    score(q, x) = tfidf(q, x) * sum_c weight_c < dl(q)/df, dl(x)/df >

tfidf(q, x) is the cosine of the two texts' tf-idf vectors (see `texts`), f the logits; TracIn on the last layer has
< a_q, a_x > there. Positive: the texts share words, and training on x moves the logits to the query's good.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from headwater.methods.last_layer import LastLayer, Share, errors_of
from headwater.methods.method import CheckpointOptions, Question
from headwater.methods.parts import RepresentationBlock
from headwater.methods.texts import TfIdf


@dataclass(frozen=True)
class TfIdfGradient(CheckpointOptions):
    """Options of TR-TFIDF."""


def prepare(question: Question, options: TfIdfGradient) -> LastLayer:
    """Weigh words by the training rows; take the queries' errors."""
    words = TfIdf.of(question)
    parts = question.representations(options.checkpoints)
    return LastLayer([Share(part, part.weight, errors_of(part.queries)[:, None, :], _sides) for part in parts], words)


def _sides(block: RepresentationBlock) -> tuple[Float64[Tensor, "n c"], Float64[Tensor, "n 1"]]:
    errors = errors_of(block)
    return errors, errors.new_ones(len(errors), 1)
