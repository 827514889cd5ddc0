"""LESS: the query's gradient against the step that Adam would take on the row (Xia et al. 2024, arXiv 2402.04333).

    score(x, x') = sum_c weight_c cos( P dl(x')/dW , P Adam(dl(x)/dW) )

Positive: a step on x lowers the loss of the query x'. Adam(g) is the update, moments included, before the learning
rate; rows are indexed so. Summed over checkpoints with their weights (the paper: the mean learning rate of an epoch); a
mean over runs. The paper projects LoRA's gradients to 8,192 numbers and takes the highest score over subtasks.
"""

from __future__ import annotations

from dataclasses import dataclass

from headwater.methods.bilinear import Bilinear, Term, inverse, norms, row_norms
from headwater.methods.method import LayerOptions, Question


@dataclass(frozen=True)
class Less(LayerOptions):
    """Options of LESS. Without `layers`: all that are indexed."""


def prepare(question: Question, options: Less) -> Bilinear:
    """Divide both sides by their norms; the rows' side already is Adam's step."""
    parts = question.layers(options.checkpoints, layers=options.layers, scale="adam-update")
    return Bilinear(
        [
            Term(
                part,
                part.weight,
                query_scale=inverse(norms(part.queries)),
                row_scale=inverse(row_norms(part)),
                reach=1.0,
            )
            for part in parts
        ]
    )
