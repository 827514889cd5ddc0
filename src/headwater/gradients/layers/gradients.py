"""Layer gradients of a corpus: per batch and layer one row per example, projected or exact, in float32 on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from headwater.errors import UsageError
from headwater.gradients.batches import Batch
from headwater.gradients.layers.adam import AdamStep
from headwater.gradients.layers.capture import Capture, capture_layers
from headwater.gradients.layers.factors import Layer, LayerFactors
from headwater.gradients.layers.moments import Denominators
from headwater.gradients.layers.projection import Projection, Projector, project
from headwater.gradients.tokens import Losses

Update = Denominators | AdamStep
"""What becomes of a gradient before it is projected: it is divided by sqrt(v), or it becomes Adam's next step."""


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
    updates: Mapping[str, Update] | None = None,
) -> Iterator[LayerGradients]:
    """Yield the gradients of each batch: one forward pass and one backward pass of activations.

    Without `projector` they are exact, and large. `updates` (of `denominators` or `adam_steps`, by layer) changes them
    before they are projected, at the price of forming them dense, layer by layer, some examples at a time. A layer's
    factors are projected as soon as the backward pass reaches it, so that no two layers' are in memory for long; Adam's
    step alone waits for all calls of all layers, whose factors a batch then holds at once. Raises what `Capture.stream`
    raises, and UsageError where a layer has no update.
    """
    device = next(model.parameters()).device
    made = projector.of(layers) if projector else {}
    projections = {name: found.to(torch.empty(0, device=device)) for name, found in made.items()}
    by = None if updates is None else _moved(layers, updates, device)
    with capture_layers(model, layers) as capture:
        for batch in batches:
            yield LayerGradients(batch.rows, _of_batch(capture, batch, losses, projections, precision, by))


def _of_batch(
    capture: Capture,
    batch: Batch,
    losses: Losses,
    projections: Mapping[str, Projection],
    precision: str,
    updates: Mapping[str, Update] | None,
) -> dict[str, Float32[Tensor, "n k"]]:
    found: dict[str, Tensor] = {}

    def take(factors: LayerFactors) -> None:
        name = factors.layer.name
        pieces = (factors,) if updates is None else updates[name].pieces(factors)
        row = torch.cat([project(piece, projections.get(name)) for piece in pieces])
        found[name] = found[name] + row if name in found else row

    if updates is not None and any(isinstance(update, AdamStep) for update in updates.values()):
        for factors in capture.factors(batch, losses, precision=precision).values():
            take(factors)
    else:
        capture.stream(batch, losses, take, precision=precision)
    return {layer.name: _on_cpu(found, layer, projections, len(batch.rows)) for layer in capture.layers}


def _moved(layers: Sequence[Layer], updates: Mapping[str, Update], device: torch.device) -> dict[str, Update]:
    missing = [layer.name for layer in layers if layer.name not in updates]
    if missing:
        raise UsageError(f"{missing[0]} has no denominators or steps: make them of the same layers.")
    return {layer.name: updates[layer.name].to(device) for layer in layers}


def _on_cpu(found: dict[str, Tensor], layer: Layer, projections: Mapping[str, Projection], n: int) -> Tensor:
    if layer.name in found:
        return found[layer.name].float().cpu()
    return torch.zeros(n, projections[layer.name].size if layer.name in projections else layer.size)
