"""TrackStar: preconditioned gradients of unit length (Chang et al. 2025, arXiv 2410.17413).

    u(z) = P ( dl(z)/dW / sqrt(V) )                      V: Adam's second moments; P: projection of both sides
    R_l  = mix R_eval,l + (1 - mix) R_train,l            R_*,l = mean of u_l u_l^T, one block a layer
    G(z) = (R + lam)^-1/2 u(z)                           lam_l = damping * mean eigenvalue of R_l
    score(x, x') = < G(x') / |G(x')| , G(x) / |G(x)| >   the length is of all layers in one

Positive: training on x lowers the loss of the query x'. Over checkpoints and runs: a weighted mean (the paper has one
checkpoint, the last).

The mix: R_eval is made of the queries that are asked together, and what they have in common (a template) counts less.
By default mix = s_train[k] / (s_eval[k] + s_train[k]), where s are the eigenvalues of all layers in one descending list
and k is 1,000 of 65,536 dimensions, in proportion: there the two spectra cross. Fewer queries than a layer has numbers
span no such spectrum: what R_eval held would be the queries themselves, and each would be whitened away, so that even a
training row asked with one word changed would not find itself. The mix is 0 then, as in the paper's tasks without one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from headwater.errors import UsageError
from headwater.methods.bilinear import Bilinear, Term, inverse, mean_weights, norms
from headwater.methods.curvature import Blocks, Spectra, check_options, eigen, moments_of, row_moments, row_spectra
from headwater.methods.method import LayerOptions, Question, Scale
from headwater.methods.parts import LayerPart
from headwater.progress import stage

CROSSING = 1000 / 65_536
"""Where the spectra cross, as a share of all dimensions (the paper's appendix A.1.3)."""


@dataclass(frozen=True)
class TrackStar(LayerOptions):
    """Options of TrackStar. Without `layers`: all that are indexed."""

    second_moments: bool = field(
        default=True,
        metadata={
            "help": "Divide gradients by the square root of Adam's second moments; without, those of an index of plain "
            "gradients are read."
        },
    )
    mix: float | None = field(
        default=None,
        metadata={
            "help": "Share of the queries' second moments in R, 0 to 1. None: by the paper's rule where as many are "
            "asked together as a layer has numbers, else 0."
        },
    )
    damping: float = field(default=0.1, metadata={"help": "Added to R of a layer: so many times its mean eigenvalue."})
    curvature_rows: int | None = field(
        default=None, metadata={"help": "Estimate R_train from so many rows, evenly spaced; None: all."}
    )

    def __post_init__(self) -> None:
        check_options(self.damping, self.curvature_rows)
        if self.mix is not None and not 0 <= self.mix <= 1:
            raise UsageError(f"mix is a share, 0 to 1; it is {self.mix}.")


def prepare(question: Question, options: TrackStar) -> Bilinear:
    """Find R, and the length of every preconditioned gradient."""
    scale: Scale = "second-moments" if options.second_moments else "none"
    parts = question.layers(options.checkpoints, layers=options.layers, scale=scale)
    weights = mean_weights(parts)
    return Bilinear([_term(part, weight, options) for part, weight in zip(parts, weights, strict=True)])


def _term(part: LayerPart, weight: float, options: TrackStar) -> Term:
    found = _curvature(part, options)
    root = found.power(-0.5, options.damping)
    query_sizes = torch.linalg.vector_norm(root(part.queries.double()), dim=1).numpy()
    sizes, reach = _row_sizes(part, root.in_float32())
    return Term(
        part,
        weight,
        found.power(-1, options.damping),  # R^-1/2 on both sides
        query_scale=inverse(query_sizes),
        row_scale=inverse(sizes),
        reach=reach,
    )


def _curvature(part: LayerPart, options: TrackStar) -> Spectra:
    """Return R, decomposed."""
    few = len(part.queries) < max(span.stop - span.start for span in part.layers)
    if options.mix == 0 or (options.mix is None and few):
        return row_spectra(part, options.curvature_rows)
    train = row_moments(part, options.curvature_rows)
    asked = moments_of(part.queries.double(), part.layers)
    mix = mix_of(row_spectra(part, options.curvature_rows), eigen(asked)) if options.mix is None else options.mix
    mixed = [mix * one + (1 - mix) * other for one, other in zip(asked.matrices, train.matrices, strict=True)]
    return eigen(Blocks(part.layers, tuple(mixed)))


def mix_of(train: Spectra, asked: Spectra) -> float:
    """Return the share of R_eval at which the spectra of both shares cross (see the top); 0 without any gradient."""
    ours, theirs = _descending(train), _descending(asked)
    dimensions = sum(len(values) for values in train.values)
    k = min(max(round(CROSSING * dimensions), 1), len(ours), len(theirs))
    if k == 0:
        return 0.0
    return float(ours[k - 1] / (theirs[k - 1] + ours[k - 1]))


def _descending(spectra: Spectra) -> Float64[Tensor, "positive"]:
    """Return the eigenvalues of all layers that are more than rounding, highest first."""
    kept = [values[values > values.max() * len(values) * 2.0**-46] for values in spectra.values]
    return torch.cat(kept).sort(descending=True).values


def _row_sizes(part: LayerPart, root: Blocks) -> tuple[Float64[np.ndarray, "rows"], float]:
    """Return the length of every row's G, and the most that a row's u is of it."""
    sizes, reach = np.zeros(part.rows), 0.0
    stage(f"measuring all {part.rows:,} rows at {part.checkpoint.name}")
    for start, block in part.blocks():
        here = norms(root(block))
        sizes[start : start + len(block)] = here
        reach = max(reach, float((norms(block) * inverse(here)).max(initial=0.0)))
    return sizes, reach
