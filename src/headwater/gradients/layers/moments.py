"""Preconditioning by an optimizer's second moments: G / (sqrt(v) + eps), entry by entry, as Adam divides its steps.

v is Adam's running mean of squared gradients, corrected for its start (see `optimizer.second_moments`). A quotient
entry by entry has no factors, so that a linear layer's gradient is formed dense: t o i multiply-adds and o i numbers an
example, then projected. Lookups and vectors stay as cheap as they are.

Entries that training did not move are divided by infinity, so that they count for nothing: rows of tokens that never
occurred (v = 0), and what only rounding moved. The bias of attention's keys has no gradient, for a softmax does not see
it; its sqrt(v) is 1e-6 times that of the weights beside it (MiniLM), and dividing by that would turn the noise of every
example, and the shares of its places, which cancel, into the largest numbers of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.gradients.layers.factors import Dense, Layer, LayerFactors, Outer, Part, Plain, Rows
from headwater.gradients.layers.optimizer import layer_form

EPSILON = 1e-8
"""Adam's own, unless told otherwise."""

_MOVED = 1e-4
"""Of the root mean square of a layer's sqrt(v): what lies below moved by rounding only. Others reach down to 5e-3."""


@dataclass(frozen=True)
class Denominators:
    """sqrt(v) + eps of one layer, in the form of its gradients; infinite where training moved nothing."""

    values: Float[Tensor, "*form"]
    """[o, i or i + 1] of a matrix, [p] of a vector."""

    def to(self, device: torch.device) -> Denominators:
        """The same on a device."""
        return Denominators(self.values.to(device))

    def pieces(self, factors: LayerFactors) -> Iterator[LayerFactors]:
        """Divide a batch, in pieces of some examples each where they become dense (linear layers)."""
        dense = any(isinstance(part, Outer) for part in factors.parts)
        for piece in factors.chunks() if dense else (factors,):
            yield divide(piece, self)


def denominators(
    layers: Sequence[Layer], moments: Mapping[str, Tensor], *, epsilon: float = EPSILON
) -> dict[str, Denominators]:
    """Return sqrt(v) + eps of each layer. Raises RunError where a layer was not trained, or has another shape."""
    return {layer.name: Denominators(denominator(layer_form(layer, moments), epsilon)) for layer in layers}


def denominator(moments: Float[Tensor, "*form"], epsilon: float = EPSILON) -> Float[Tensor, "*form"]:
    """Return sqrt(v) + eps of one layer's v; infinity where training moved nothing (see the module's top)."""
    roots = moments.sqrt()
    moved = roots[roots > 0]
    least = _MOVED * float(torch.linalg.vector_norm(moved, dtype=torch.float64)) / max(len(moved), 1) ** 0.5
    return torch.where(roots > least, roots + epsilon, torch.inf)


def divide(factors: LayerFactors, by: Denominators) -> LayerFactors:
    """Divide every gradient entry by entry. Linear layers become dense: see `LayerFactors.chunks`."""
    return LayerFactors(factors.layer, factors.examples, tuple(_divide(part, by.values) for part in factors.parts))


def _divide(part: Part, by: Tensor) -> Part:
    if isinstance(part, Plain):
        return Plain(part.values / by.to(part.values))
    if isinstance(part, Rows):
        return Rows(part.ids, part.right / by.to(part.right)[part.ids, : part.right.shape[2]], part.count, part.bias)
    matrix = part.dense() if isinstance(part, Outer) else part.matrix
    return Dense(matrix / by.to(matrix))
