"""The least that any method must do: forward, and backward to the embedding's output. Shares no code with Headwater.

Parameters are frozen, the embedding lookup's output is made a leaf, and the gradient of the summed loss is taken at
that leaf. What a build costs beyond this is overhead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def bare_pass(model: nn.Module, embedding: nn.Module, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Gradient of each row's own loss at the embedding lookup's output, [rows, places, width]."""
    leaf: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        leaf.append(output.detach().requires_grad_())
        return leaf[0]

    hook = embedding.register_forward_hook(cut)
    try:
        losses = functional.cross_entropy(model(**inputs).logits, targets, reduction="none")
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(losses.sum(), leaf[0])
    return gradient
