"""Headwater: projected gradients by `layer_gradients`, in memory, float32 (its files hold them as float16).

Modes: `all` linear layers, those of the `blocks`, or the `last` alone, exact, its bias left out as Captum's fast path
leaves it out.
"""

from __future__ import annotations

import torch
from layer_common import Pass, Task, serve, token_targets
from torch import Tensor

from headwater import CausalLM, Classification
from headwater.gradients.batches import Batch
from headwater.gradients.layers import Projector, layer_gradients, layers_of


def prepare(task: Task) -> Pass:
    rows = task.rows
    model = rows.load()
    losses = (Classification() if rows.kind == "classification" else CausalLM()).losses
    names = rows.layers["all"][-1:] if task.mode == "last" else rows.layers[task.mode]
    layers = [layer for layer in layers_of(model) if layer.name in names]
    if len(layers) != len(names):
        raise SystemExit(f"{len(layers)} of {len(names)} layers found")
    projector = None if task.mode == "last" else Projector(dim=16)
    task.notes["layers"] = len(layers)

    def as_batch(given: dict[str, Tensor]) -> Batch:
        inputs = {name: given[name] for name in ("input_ids", "attention_mask")}
        if rows.kind == "causal-lm":
            return Batch(given["rows"], inputs | {"targets": token_targets(given)}, torch.zeros(len(given["rows"])))
        return Batch(given["rows"], inputs, given["labels"])

    def once(count: int | None) -> Tensor:
        found = layer_gradients(model, map(as_batch, rows.batches(count)), losses, layers, projector)
        kept = torch.cat([torch.cat(list(batch.gradients.values()), dim=1) for batch in found])
        if task.mode == "last":
            (layer,) = layers
            assert layer.matrix is not None
            return kept[:, : layer.matrix[0] * layer.matrix[1]]
        return kept

    return once


if __name__ == "__main__":
    serve(prepare, ["headwater", "torch", "transformers"])
