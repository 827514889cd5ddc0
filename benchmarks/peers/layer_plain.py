"""Plain autograd: forward and backward with parameter gradients, batch by batch. What a training step does at least.

`--mode truth` is no pass: it writes exact dot products of some rows' gradients, `blocks.npy` and `all.npy` [R, R] and
their `rows.npy`. For a linear layer < G, G' > = sum_{t,t'} <a_t, a'_t'> <b_t, b'_t'>, with a the input at place t (and
1 for the bias) and b the gradient of the output; two rows' are checked against dense autograd.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layer_common import Pass, Rows, Task, read_rows, serve, summed_loss
from torch import Tensor, nn

TRUTH_ROWS = 24


def prepare(task: Task) -> Pass:
    rows = task.rows
    model = rows.load().requires_grad_(True)

    def once(count: int | None) -> None:
        for batch in rows.batches(count):
            summed_loss(model, batch, rows.kind).backward()
            model.zero_grad(set_to_none=True)

    return once


def truth(setting: Path, out: Path) -> None:
    rows = read_rows(setting)
    model = rows.load().requires_grad_(False)
    numbers = torch.linspace(0, len(rows) - 1, min(TRUTH_ROWS, len(rows))).long()
    found = exact_dots(model, rows, numbers)
    check_dots(model, rows, numbers, found["all"])
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "blocks.npy", found["blocks"].numpy())
    np.save(out / "all.npy", found["all"].numpy())
    np.save(out / "rows.npy", numbers.numpy())


def exact_dots(model: Any, rows: Rows, numbers: Tensor) -> dict[str, Tensor]:
    """Dot products [R, R] over the layers of the blocks, and over all linear layers."""
    batch = rows.take(numbers)
    count = len(numbers)
    found = {which: torch.zeros(count, count, dtype=torch.float64) for which in ("blocks", "all")}
    inputs: dict[str, Tensor] = {}

    def pairs(one: Tensor) -> Tensor:
        """[R t, R t] of [R, t, width]; a pooled layer's [R, width] has one place."""
        flat = one.reshape(-1, one.shape[-1])
        return flat @ flat.T

    def forward(name: str, module: nn.Linear, given: Tensor) -> None:
        ones = [given.new_ones(*given.shape[:-1], 1)] if module.bias is not None else []
        inputs[name] = torch.cat([given.detach(), *ones], dim=-1)

    def backward(name: str, gradient: Tensor) -> None:
        products = pairs(gradient) * pairs(inputs.pop(name))
        places = len(products) // count
        dots = products.reshape(count, places, count, places).double().sum(dim=(1, 3))
        for which in found:
            if name in rows.layers[which]:
                found[which] += dots

    handles = []
    for name in rows.layers["all"]:

        def hook(module: Any, given: Any, output: Tensor, name: str = name) -> None:
            forward(name, module, given[0])
            output.register_hook(lambda gradient: backward(name, gradient))

        handles.append(model.get_submodule(name).register_forward_hook(hook))
    model.get_input_embeddings().requires_grad_(True)  # so that a gradient flows through what is frozen
    summed_loss(model, batch, rows.kind).backward()
    model.zero_grad(set_to_none=True)
    for handle in handles:
        handle.remove()
    return found


def check_dots(model: Any, rows: Rows, numbers: Tensor, found: Tensor) -> None:
    """Two rows' dot products by dense autograd, one row at a time. A tied head counts as a layer of its own."""
    head = model.get_output_embeddings() if rows.kind == "causal-lm" else None
    if head is not None:
        head.weight = nn.Parameter(head.weight.detach().clone())
    layers = [model.get_submodule(name) for name in rows.layers["all"]]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)

    def gradient(place: int) -> tuple[Tensor, ...]:
        return torch.autograd.grad(summed_loss(model, rows.take(numbers[place : place + 1]), rows.kind), parameters)

    last = len(numbers) - 1
    sides = {place: gradient(place) for place in (0, last)}
    for one, other in ((0, 0), (0, last), (last, last)):
        dense = sum(float((a.double() * b.double()).sum()) for a, b in zip(sides[one], sides[other], strict=True))
        bound = 1e-3 * float(found[one, one] * found[other, other]) ** 0.5
        if abs(dense - float(found[one, other])) > bound:
            raise SystemExit(f"exact dot products are wrong: {float(found[one, other])} is not {dense}")


if __name__ == "__main__":
    if "truth" in sys.argv:
        truth(Path(sys.argv[2]), Path(sys.argv[4]))
    else:
        serve(prepare, ["torch", "transformers"])
