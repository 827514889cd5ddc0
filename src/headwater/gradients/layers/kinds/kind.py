"""What the engine must know of a kind of layer. One file a kind; a new one is a file and an entry in the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headwater.errors import ModelError
from headwater.gradients.layers.factors import Part


@dataclass(frozen=True)
class Kind:
    """A kind of layer, as functions of its module. `lead` are the dimensions of batch and places."""

    name: str
    holds: Callable[[Any], bool]
    """Is this module of the kind?"""
    refusal: Callable[[Any], str]
    """Why its per-example gradients cannot be had; empty: they can."""
    matrix: Callable[[Any], tuple[int, int] | None]
    """(o, i) of its weight seen as a matrix, None for a vector."""
    measure: Callable[[Any, Tensor, Tensor], Any]
    """(module, input, output) at the first call: check that it computes what its kind computes, and return what must
    be measured (an embedding's scale). Raises ModelError."""
    keep: Callable[[Any, Tensor, Tensor, Any], Tensor]
    """(module, input, output, measured) -> what its gradient needs of the input, [*lead, ...] (ids: [*lead])."""
    part: Callable[[Any, Tensor, Tensor, Any], Part]
    """(module, kept [n, t, ...], output gradient [n, t, o], measured) -> the gradient."""
    channels: int = -1
    """The dimension of the output that is not lead."""
    transposed: bool = False
    token_wise: bool = True
    """Does a place of the output come from the same place of the input alone?"""


def full(tensor: Tensor) -> Tensor:
    """16-bit numbers as float32; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def compare(module: nn.Module, seen: Tensor, expected: Tensor) -> None:
    """Raise ModelError unless the module returned what its kind returns."""
    if not agrees(seen, expected):
        raise ModelError(
            f"{type(module).__name__} does not compute what its class or name says; its gradients are unknown to us."
        )


def agrees(seen: Tensor, expected: Tensor) -> bool:
    """Equal up to rounding (of 16 bits, where the module returns those)? Not-finite outputs say nothing: True."""
    if seen.shape != expected.shape:
        return False
    seen, rough = seen.detach().double(), seen.dtype in (torch.bfloat16, torch.float16)
    if not bool(torch.isfinite(seen).all()):
        return True  # the gradient will not be finite either, and that error names the row
    allowed = (5e-2 if rough else 1e-3) * max(float(seen.abs().max()), 1e-30)
    return float((seen - expected.double()).abs().max()) <= allowed
