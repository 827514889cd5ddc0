"""The step that Adam would take on one example's gradient, entry by entry (LESS: Xia et al. 2024, arXiv 2402.04333).

                  (b1 m + (1 - b1) g) / (1 - b1^t)
    Adam(g) = -----------------------------------------         t: the checkpoint's steps and one more
              sqrt((b2 v + (1 - b2) g^2) / (1 - b2^t)) + eps

so that the parameters would move by -lr Adam(g), weight decay aside. It is not linear: every example moves by m too,
and what several calls of a layer pushed must be added up first. All gradients become dense, those of lookups too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import RunError
from headwater.gradients.layers.factors import Dense, Layer, LayerFactors, Plain
from headwater.gradients.layers.optimizer import AdamState, layer_form


@dataclass(frozen=True)
class AdamStep:
    """Adam's next step on one layer, in the form of its gradients: (a + c g) / (sqrt(max(d, b + e g^2)) + eps)."""

    first: Float[Tensor, "*form"]
    """b1 m / (1 - b1^t): [o, i or i + 1] of a matrix, [p] of a vector."""
    first_rate: float
    """(1 - b1) / (1 - b1^t)."""
    second: Float[Tensor, "*form"]
    second_rate: float
    floor: Float[Tensor, "*form"] | None
    """With amsgrad: the largest second moment so far / (1 - b2^t)."""
    epsilon: float

    def to(self, device: torch.device) -> AdamStep:
        """The same on a device."""
        floor = None if self.floor is None else self.floor.to(device)
        first, second = self.first.to(device), self.second.to(device)
        return AdamStep(first, self.first_rate, second, self.second_rate, floor, self.epsilon)

    def pieces(self, factors: LayerFactors) -> Iterator[LayerFactors]:
        """Take the step of every example of a batch, some examples at a time; `factors` hold all calls of the layer."""
        layer = factors.layer
        for piece in factors.chunks():
            moved = self.of(sum((part.dense() for part in piece.parts[1:]), start=piece.parts[0].dense()))
            yield LayerFactors(
                layer, piece.examples, (Plain(moved[:, None]) if layer.matrix is None else Dense(moved),)
            )

    def of(self, gradients: Float[Tensor, "n *form"]) -> Float[Tensor, "n *form"]:
        """Return Adam(g) of each gradient."""
        second = self.second.to(gradients) + self.second_rate * gradients.square()
        if self.floor is not None:
            second = torch.maximum(second, self.floor.to(gradients))
        return (self.first.to(gradients) + self.first_rate * gradients).div_(second.sqrt_().add_(self.epsilon))


def adam_steps(layers: Sequence[Layer], states: Mapping[str, AdamState]) -> dict[str, AdamStep]:
    """Return the next step of each layer, from what `adam_states` read.

    Raises RunError where a layer was not trained, has another shape, or its weight and bias were not trained alike.
    """
    return {layer.name: _step(layer, states) for layer in layers}


def _step(layer: Layer, states: Mapping[str, AdamState]) -> AdamStep:
    moments = {name: states[name].second for name in layer.parameters if name in states}
    second = layer_form(layer, moments)
    own = [states[name] for name in layer.parameters]
    if len({(state.step, state.betas, state.epsilon, state.largest is None) for state in own}) > 1:
        raise RunError(f"{' and '.join(layer.parameters)} were trained by different steps or settings of Adam.")
    (rate1, rate2), step = own[0].betas, own[0].step + 1
    start1, start2 = 1 - rate1**step, 1 - rate2**step
    largest = {
        name: state.largest for name, state in zip(layer.parameters, own, strict=True) if state.largest is not None
    }
    return AdamStep(
        first=layer_form(layer, {name: states[name].first for name in layer.parameters}) * (rate1 / start1),
        first_rate=(1 - rate1) / start1,
        second=second * (rate2 / start2),
        second_rate=(1 - rate2) / start2,
        floor=layer_form(layer, largest) / start2 if largest else None,
        epsilon=own[0].epsilon,
    )
