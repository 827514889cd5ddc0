"""Preconditioning by an optimizer's second moments: G / (sqrt(v) + eps), entry by entry, as Adam divides its steps.

v is Adam's running mean of squared gradients, corrected for its start (see `optimizer.second_moments`). A quotient
entry by entry has no factors, so that a linear layer's gradient is formed dense: t o i multiply-adds and o i numbers an
example, then projected. Lookups and vectors stay as cheap as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.gradients.layers.factors import Dense, Layer, LayerFactors, Outer, Part, Plain, Rows
from headwater.gradients.layers.optimizer import layer_form


@dataclass(frozen=True)
class Denominators:
    """sqrt(v) + eps of one layer, in the form of its gradients."""

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
    layers: Sequence[Layer], moments: Mapping[str, Tensor], *, epsilon: float = 1e-8
) -> dict[str, Denominators]:
    """Return sqrt(v) + eps of each layer. Raises RunError where a layer was not trained, or has another shape."""
    return {layer.name: Denominators(layer_form(layer, moments).sqrt() + epsilon) for layer in layers}


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
