"""Layer gradients of a corpus: per batch and layer one row per example, projected or exact, in float32 on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from headwater.errors import UsageError
from headwater.gradients.batches import Batch
from headwater.gradients.layers.capture import capture_layers
from headwater.gradients.layers.factors import Layer, LayerFactors, Outer
from headwater.gradients.layers.moments import Denominators, divide
from headwater.gradients.layers.projection import Projection, Projector, project
from headwater.gradients.tokens import Losses


@dataclass(frozen=True)
class LayerGradients:
    """Gradients of the examples of one batch, by layer name. On the CPU."""

    rows: Int64[Tensor, "n"]
    gradients: dict[str, Float32[Tensor, "n k"]]
    """Projected: [k_out, k_in] in one line. Exact: the weight as the module holds it, then the bias."""


def layer_gradients(
    model: nn.Module,
    batches: Iterable[Batch],
    losses: Losses,
    layers: Sequence[Layer],
    projector: Projector | None = None,
    *,
    precision: str = "float32",
    denominators: Mapping[str, Denominators] | None = None,
) -> Iterator[LayerGradients]:
    """Yield the gradients of each batch: one forward pass and one backward pass of activations.

    Without `projector` they are exact, and large. `denominators` (see `moments`) divides them by an optimizer's second
    moments before projecting, at the price of forming them dense, layer by layer, some examples at a time. A layer's
    factors are projected as soon as the backward pass reaches it, so that no two layers' are in memory for long.
    Raises what `Capture.stream` raises.
    """
    projections: dict[str, Projection] = projector.of(layers) if projector else {}
    device = next(model.parameters()).device
    projections = {name: found.to(torch.empty(0, device=device)) for name, found in projections.items()}
    by = None if denominators is None else _moved(layers, denominators, device)
    with capture_layers(model, layers) as capture:
        for batch in batches:
            found: dict[str, Tensor] = {}

            def take(factors: LayerFactors, found: dict[str, Tensor] = found) -> None:
                name = factors.layer.name
                projection = projections.get(name)
                row = project(factors, projection) if by is None else _divided(factors, by[name], projection)
                found[name] = found[name] + row if name in found else row

            capture.stream(batch, losses, take, precision=precision)
            yield LayerGradients(
                batch.rows, {layer.name: _on_cpu(found, layer, projections, len(batch.rows)) for layer in layers}
            )


def _moved(
    layers: Sequence[Layer], denominators: Mapping[str, Denominators], device: torch.device
) -> dict[str, Denominators]:
    missing = [layer.name for layer in layers if layer.name not in denominators]
    if missing:
        raise UsageError(f"{missing[0]} has no denominators: make them of the same layers.")
    return {layer.name: Denominators(denominators[layer.name].values.to(device)) for layer in layers}


def _divided(factors: LayerFactors, denominators: Denominators, projection: Projection | None) -> Tensor:
    """Only linear layers become dense, and are cut in pieces."""
    dense = any(isinstance(part, Outer) for part in factors.parts)
    pieces = factors.chunks() if dense else iter([factors])
    return torch.cat([project(divide(piece, denominators), projection) for piece in pieces])


def _on_cpu(found: dict[str, Tensor], layer: Layer, projections: Mapping[str, Projection], n: int) -> Tensor:
    if layer.name in found:
        return found[layer.name].float().cpu()
    return torch.zeros(n, projections[layer.name].size if layer.name in projections else layer.size)
