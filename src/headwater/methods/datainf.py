"""DataInf: influence functions in closed form, layer by layer (Kwon et al. 2024, arXiv 2310.00902).

    score(x, x') = sum_l g_l(x')^T H_l^-1 g_l(x)
    H_l^-1 v     = 1/(n lam_l)  sum_i ( v - (g_i . v) / (lam_l + |g_i|^2) g_i )   =   (v - W_l v) / lam_l
    W_l          = 1/n sum_i g_i g_i^T / (lam_l + |g_i|^2)         lam_l = damping * mean over rows and numbers of g_l^2

The mean of inverses stands for the inverse of the mean. The influence of leaving x out on the query's loss: positive
where training on x lowers it. Of several checkpoints and runs: their plain mean (the paper has one, the last).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from headwater.errors import UsageError
from headwater.methods.bilinear import Bilinear, Term
from headwater.methods.curvature import Blocks, Rows, check_options, layer_squares, read, second_moments
from headwater.methods.method import LayerOptions, Question
from headwater.methods.parts import LayerPart


@dataclass(frozen=True)
class DataInf(LayerOptions):
    """Options of DataInf. Without `layers`: all that are indexed."""

    damping: float = field(
        default=0.1, metadata={"help": "lam of a layer: so many times the mean of its squared gradients. Above 0."}
    )
    curvature_rows: int | None = field(
        default=None, metadata={"help": "Estimate the curvature from so many rows, evenly spaced; None: all."}
    )

    def __post_init__(self) -> None:
        check_options(self.damping, self.curvature_rows)
        if self.damping == 0:
            raise UsageError("damping must be above 0: DataInf divides by it.")


def prepare(question: Question, options: DataInf) -> Bilinear:
    """Form H_l^-1 of each layer, so that queries and their words are multiplied alike."""
    parts = question.layers(options.checkpoints, layers=options.layers)
    known = ("datainf", options.damping, options.curvature_rows)
    inverses = [part.once(known, partial(inverse_of, part, options)) for part in parts]
    return Bilinear([Term(part, 1 / len(parts), inverse) for part, inverse in zip(parts, inverses, strict=True)])


def inverse_of(part: LayerPart, options: DataInf) -> Blocks:
    """Return H_l^-1 of one checkpoint, 0 for a layer without gradients. Two passes over the rows: lam comes first."""
    total, count = torch.zeros(len(part.layers), dtype=torch.float64), 0
    for rows, block in read(part, options.curvature_rows):
        total += layer_squares(block, part.layers).sum(dim=0)
        count += len(rows)
    widths = torch.tensor([span.stop - span.start for span in part.layers])
    lam = options.damping * total / (count * widths)
    weighted = second_moments(part, most_rows=options.curvature_rows, weigh=partial(_weights, part, lam))
    made = []
    for matrix, each in zip(weighted.matrices, lam.tolist(), strict=True):
        inverse = torch.eye(len(matrix), dtype=torch.float64) - matrix
        made.append(inverse / each if each > 0 else torch.zeros_like(matrix))
    return Blocks(part.layers, tuple(made))


def _weights(
    part: LayerPart, lam: Float64[Tensor, "layers"], _: Rows, block: Float32[Tensor, "n k"]
) -> Float64[Tensor, "n layers"]:
    known = lam + layer_squares(block, part.layers)
    return torch.where(known > 0, 1 / known, 0.0)
