"""TRAK: the data model of a linearised classifier (Park et al. 2023, arXiv 2303.14186).

    phi(z)        = R^T d/dW log( p(z) / (1 - p(z)) )  =  R^T g(z) / -(1 - p(z))        p(z) = exp(-loss)
    score(x, x')  = mean_m [ phi_m(x')^T (Phi_m^T Phi_m)^-1 phi_m(x) ]  *  mean_m [ 1 - p_m(x) ]

g is the stored gradient of the loss, R a second seeded random projection of all its layers in one to `dim` numbers
(none where it is no longer), Phi the phi of all rows. m runs over checkpoints and runs; the two factors are averaged
apart, as in the paper, which takes the last checkpoints of independent runs. Positive: leaving x out lowers the
log-odds of the query x'. Where the rows span fewer than `dim` dimensions the inverse is a pseudo-inverse.

The loss must be a plain negative log-likelihood. Of a language model p is that of the whole text (`reduction="mean"`:
its geometric mean a token). Below _LEAST, 1 - p has no digits left in float32; the gradient is divided by _LEAST then.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from headwater.errors import UsageError
from headwater.methods.bilinear import Bilinear, Term
from headwater.methods.curvature import Blocks, check_options, eigen
from headwater.methods.method import LayerOptions, Question
from headwater.methods.parts import LayerPart, LayerSpan
from headwater.progress import stage
from headwater.runs import CustomLoss, Task

_LEAST = 1e-6
_WIDEST = 16_384
_MOST = 2048  # unless asked for: as many dimensions as rows would let each row explain itself alone
_STRIPE = 256


@dataclass(frozen=True)
class Trak(LayerOptions):
    """Options of TRAK. Without `layers`: all that are indexed."""

    dim: int | None = field(
        default=None,
        metadata={"help": "Project to so many numbers. None: a quarter of the training rows, at most 2,048."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of that projection."})
    damping: float = field(
        default=0.0, metadata={"help": "Added to Phi^T Phi: so many times its mean eigenvalue. The paper: 0."}
    )

    def __post_init__(self) -> None:
        check_options(self.damping, None)
        if self.dim is not None and not 1 <= self.dim <= _WIDEST:
            raise UsageError(f"dim must be 1 to {_WIDEST:,}; it is {self.dim}.")


@dataclass(frozen=True)
class Kernel:
    """R (Phi^T Phi)^-1 R^T."""

    projection: Float32[Tensor, "k dim"] | None
    inverse: Blocks

    def __call__(self, vectors: Float64[Tensor, "m k"]) -> Float64[Tensor, "m k"]:
        """Multiply each row."""
        if self.projection is None:
            return self.inverse(vectors)
        both = self.projection.double()
        return self.inverse(vectors @ both) @ both.T


def prepare(question: Question, options: Trak) -> Bilinear:
    """Form Phi^T Phi of each checkpoint, and the mean of 1 - p. Raises UsageError for other losses than the paper's."""
    check_loss(question.run.task)
    parts = question.layers(options.checkpoints, layers=options.layers)
    misses = [miss(part.losses) for part in parts]
    wrong = np.mean(misses, axis=0)
    projections: dict[int, Tensor | None] = {}
    terms = []
    for part, own in zip(parts, misses, strict=True):
        width = part.queries.shape[1]
        if width not in projections:
            dim = min(max(part.rows // 4, 1), _MOST) if options.dim is None else options.dim
            projections[width] = draw(width, dim, options.seed)
        projection = projections[width]
        made = partial(_inverse, part, projection, 1 / own, options.damping)
        kernel = Kernel(projection, part.once(replace(options, checkpoints=None, layers=None), made))
        terms.append(Term(part, 1 / len(parts), kernel, 1 / miss(part.query_losses), wrong / own))
    return Bilinear(terms)


def check_loss(task: Task) -> None:
    """Raise UsageError where exp(-loss) is not a probability."""
    what = None
    if isinstance(task, CustomLoss):
        what = f"the loss is {task.name}"
    elif getattr(task, "label_smoothing", 0.0):
        what = "labels are smoothed"
    elif getattr(task, "class_weights", None) is not None:
        what = "classes are weighted"
    if what is not None:
        raise UsageError(f"trak needs plain cross entropy, whose exp(-loss) is the probability of the label: {what}.")


def miss(losses: Float32[Tensor, "n"]) -> Float64[np.ndarray, "n"]:
    """Return 1 - p, not below _LEAST. Minus signs of both sides cancel, so they are left out everywhere."""
    found: Float64[np.ndarray, "n"] = np.maximum(-np.expm1(-losses.double().numpy()), _LEAST)
    return found


def draw(width: int, dim: int, seed: int) -> Float32[Tensor, "width dim"] | None:
    """Random signs over sqrt(dim), always drawn on the CPU; None where nothing is to be shortened."""
    if width <= dim:
        return None
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (width, dim), generator=generator, dtype=torch.int8)
    return (signs.float() * 2 - 1).div_(dim**0.5)


def _inverse(part: LayerPart, projection: Tensor | None, scales: Float64[np.ndarray, "rows"], damping: float) -> Blocks:
    """Return (Phi^T Phi)^-1. Phi^T Phi is added up in float64, for nothing damps its rounding; half of it, mirrored."""
    width = part.queries.shape[1] if projection is None else projection.shape[1]
    stage(f"measuring the curvature at {part.checkpoint.name}, kept for the next question")
    total = torch.zeros(width, width, dtype=torch.float64)
    for start, block in part.blocks():
        phi: Float[Tensor, "n d"] = (block if projection is None else block @ projection).double()
        phi *= torch.from_numpy(scales[start : start + len(block)])[:, None]
        for first in range(0, width, _STRIPE):
            total[first : first + _STRIPE, first:].addmm_(phi[:, first : first + _STRIPE].T, phi[:, first:])
    whole = total.triu() + total.triu(1).T
    return eigen(Blocks((LayerSpan("phi", 0, width),), (whole,))).power(-1, damping)
