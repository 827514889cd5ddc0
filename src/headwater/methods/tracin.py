"""TracIn over any layers, projected (Pruthi et al. 2020, arXiv 2002.08484; layers: Yeh et al. 2022, arXiv 2202.11844).

    score(x, x') = sum_c weight_c < P dl(x)/dW , P dl(x')/dW >        W: the chosen layers at checkpoint c

Positive: training on x lowers the loss of the query x'. P is the index's random projection, which keeps the product on
average; layers that are stored whole are exact. Summed over checkpoints; a mean over runs. With second moments the
query's gradient is divided by sqrt(v) of Adam, entry by entry and before it is projected, as Adam's steps were.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headwater.methods.bilinear import Bilinear, Term
from headwater.methods.method import LayerOptions, Question

_LAYERS = LayerOptions.__dataclass_fields__["layers"].metadata


@dataclass(frozen=True)
class TracIn(LayerOptions):
    """Options of TracIn. Without `layers`: all that are indexed."""

    second_moments: bool = field(
        default=False,
        metadata={
            "help": "Divide the query's side by the square root of Adam's second moments, as its steps were: needs "
            "optimizer.pt in each checkpoint, and Recorder."
        },
    )


@dataclass(frozen=True)
class TracInLast(TracIn):
    """Options of TracIn-Last: the last layer."""

    layers: str | None = field(default="last", metadata=_LAYERS, kw_only=True)


@dataclass(frozen=True)
class TracInSecond(TracIn):
    """Options of TracIn on the layer before the last."""

    layers: str | None = field(default="second-to-last", metadata=_LAYERS, kw_only=True)


@dataclass(frozen=True)
class TracInAll(TracIn):
    """Options of TracIn on every layer, all of which must be indexed."""

    layers: str | None = field(default="all", metadata=_LAYERS, kw_only=True)


def prepare(question: Question, options: TracIn) -> Bilinear:
    """Take the gradients as they are."""
    parts = question.layers(options.checkpoints, layers=options.layers, second_moments=options.second_moments)
    return Bilinear([Term(part, part.weight) for part in parts])
