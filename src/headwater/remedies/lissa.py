"""LiSSA: the inverse of a Hessian times a vector, by a recursion over batches (Agarwal et al. 2017; as FastIF uses it,
Guo et al. 2021, arXiv 2012.15781).

    h_0 = v,   h_(j+1) = v + (1 - damping) h_j - H_batch h_j / scale,   h_J / scale  ~  (H + damping scale)^-1 v

`scale` must exceed the largest eigenvalue of H, or the recursion grows without end; it is found by power iteration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headwater.errors import HeadwaterError

Vector = list[Tensor]
"""One tensor a parameter."""

_POWER = 12  # steps of the power iteration
_MARGIN = 1.5  # its estimate is of one batch, and from below


@dataclass(frozen=True)
class Solved:
    """The result, and how it came about."""

    vector: Vector
    steps: int
    scale: float


def hessian_times(loss: Tensor, parameters: Sequence[nn.Parameter], vector: Vector) -> Vector:
    """Return H v by two backward passes; H is the Hessian of `loss` in `parameters`."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    product = sum((one * other).sum() for one, other in zip(gradients, vector, strict=True))
    assert isinstance(product, Tensor)
    found = torch.autograd.grad(product, parameters, allow_unused=True)
    return [
        torch.zeros_like(one) if each is None else each.detach() for one, each in zip(parameters, found, strict=True)
    ]


def solve(
    loss: Callable[[int], Tensor],
    parameters: Sequence[nn.Parameter],
    vector: Vector,
    *,
    steps: int = 100,
    damping: float = 5e-3,
    scale: float | None = None,
    seconds: float | None = None,
) -> Solved:
    """Run the recursion; `loss(j)` makes the loss of the j-th batch. Stops early after `seconds`, with what it has.

    Raises HeadwaterError where it diverges.
    """
    began = time.monotonic()
    scale = scale if scale is not None else _MARGIN * _largest(loss, parameters, vector)
    here = [each.clone() for each in vector]
    done = 0
    for number in range(steps):
        pushed = hessian_times(loss(number), parameters, here)
        here = [v + (1 - damping) * h - p / scale for v, h, p in zip(vector, here, pushed, strict=True)]
        done += 1
        if not all(bool(torch.isfinite(each).all()) for each in here):
            raise HeadwaterError(f"LiSSA diverged after {done} steps at scale {scale:.3g}: give a larger scale.")
        if seconds is not None and time.monotonic() - began > seconds:
            break
    return Solved([each / scale for each in here], done, scale)


def _largest(loss: Callable[[int], Tensor], parameters: Sequence[nn.Parameter], vector: Vector) -> float:
    """The size of the largest eigenvalue of one batch's Hessian; 1 where it is next to nothing."""
    here = [each.clone() for each in vector]
    value = 0.0
    for number in range(_POWER):
        size = _norm(here)
        if not size > 0:
            break
        here = hessian_times(loss(number % 2), parameters, [each / size for each in here])
        value = max(value, _norm(here))
    return value if value > 1e-6 else 1.0


def _norm(vector: Vector) -> float:
    return float(torch.sqrt(torch.stack([(each.double() ** 2).sum() for each in vector]).sum()))
