"""Cosine of layer gradients: TracIn without the lengths (ablation of TrackStar, arXiv 2410.17413; many others).

    score(x, x') = sum_c weight_c cos( P dl(x)/dW , P dl(x')/dW )  /  sum_c weight_c

Positive: training on x lowers the loss of the query x'. The cosine is of the whole vector, all chosen layers in one.
Over checkpoints and runs it is a weighted mean of cosines, so it lies in -1..1. What pushed nothing scores 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from headwater.methods.bilinear import Bilinear, Term, inverse, mean_weights, norms, row_norms
from headwater.methods.method import LayerOptions, Question


@dataclass(frozen=True)
class GradientCosine(LayerOptions):
    """Options of the cosine of gradients. Without `layers`: all that are indexed."""


def prepare(question: Question, options: GradientCosine) -> Bilinear:
    """Divide both sides by their norms."""
    parts = question.layers(options.checkpoints, layers=options.layers)
    return Bilinear(
        [
            Term(
                part,
                weight,
                query_scale=inverse(norms(part.queries)),
                row_scale=inverse(row_norms(part)),
                reach=1.0,
            )
            for part, weight in zip(parts, mean_weights(parts), strict=True)
        ]
    )
