"""LoGra: influence functions in the space of projected gradients (Choe et al. 2024, arXiv 2405.13954).

    score(x, x') = sum_l  g_l(x')^T (F_l + lam_l)^-1 g_l(x)        F_l = mean over rows of g_l g_l^T
                                                                   lam_l = damping * mean eigenvalue of F_l

g_l is the projected gradient of layer l, F the Fisher information that stands for the Hessian. The influence of leaving
x out on the query's loss: positive where training on x lowers it. Of several checkpoints and runs: their plain mean (an
ensemble of influence functions; the paper has one, the last).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headwater.methods.bilinear import Bilinear, Term
from headwater.methods.curvature import check_options, row_spectra
from headwater.methods.method import LayerOptions, Question


@dataclass(frozen=True)
class LoGra(LayerOptions):
    """Options of LoGra. Without `layers`: all that are indexed."""

    damping: float = field(
        default=0.1, metadata={"help": "Added to the curvature of a layer: so many times its mean eigenvalue."}
    )
    curvature_rows: int | None = field(
        default=None, metadata={"help": "Estimate the curvature from so many rows, evenly spaced; None: all."}
    )

    def __post_init__(self) -> None:
        check_options(self.damping, self.curvature_rows)


def prepare(question: Question, options: LoGra) -> Bilinear:
    """Invert each layer's Fisher information."""
    parts = question.layers(options.checkpoints, layers=options.layers)
    inverses = [row_spectra(part, options.curvature_rows).power(-1, options.damping) for part in parts]
    return Bilinear([Term(part, 1 / len(parts), inverse) for part, inverse in zip(parts, inverses, strict=True)])
