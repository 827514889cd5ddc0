"""LayerNorm and the RMSNorm family: y_t = (c + w) * xhat_t + b, c = 0 or 1, so dl/dw = sum_t g_t * xhat_t.

xhat is x over its root mean square, centred first or not. Transformers has some 200 classes of them; which of the two a
module is, its class, its name and the output of its first call say together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from headwater.errors import ModelError
from headwater.gradients.layers.factors import Plain
from headwater.gradients.layers.kinds.kind import Kind, agrees, full

_EPSILONS = ("variance_epsilon", "eps", "epsilon", "norm_eps")


def _holds(module: nn.Module) -> bool:
    """A `weight`, perhaps a `bias` beside it, nothing else, and a class or a name that says so."""
    names = {name for name, value in module.named_parameters(recurse=False) if value is not None}
    known = isinstance(module, nn.LayerNorm | nn.RMSNorm)
    known = known or type(module).__name__.endswith(("RMSNorm", "RmsNorm", "LayerNorm"))
    return known and "weight" in names and names <= {"weight", "bias"} and not any(module.children())


def _refusal(module: Any) -> str:
    if module.weight.ndim != 1:
        return "it normalises over several dimensions"
    if not isinstance(module, nn.LayerNorm | nn.RMSNorm) and _epsilon(module) is None:
        return f"it has none of {', '.join(_EPSILONS)}"
    return ""


def _epsilon(module: nn.Module) -> float | None:
    for name in _EPSILONS:
        value = getattr(module, name, None)
        if isinstance(value, int | float):
            return float(value)
    return None


def _normalised(module: nn.Module, given: Tensor, centred: bool) -> Tensor:
    values = full(given.detach())
    if centred:
        values = values - values.mean(dim=-1, keepdim=True)
    epsilon = _epsilon(module)
    epsilon = torch.finfo(given.dtype).eps if epsilon is None else epsilon  # nn.RMSNorm(eps=None)
    return values * torch.rsqrt(values.pow(2).mean(dim=-1, keepdim=True) + epsilon)


def _measure(module: Any, given: Tensor, output: Tensor) -> bool:
    """Whether it centres. What the name suggests is tried first."""
    likely = "RMS" not in type(module).__name__.upper() and not isinstance(module, nn.RMSNorm)
    weight = full(module.weight.detach())
    bias = getattr(module, "bias", None)
    shift = full(bias.detach()) if bias is not None else torch.zeros_like(weight)
    given, output = given.detach()[:1], output.detach()[:1]
    for centred in (likely, not likely):
        unit = _normalised(module, given, centred)
        if any(agrees(output, unit * (weight + constant) + shift) for constant in (0.0, 1.0)):
            return centred
    raise ModelError(f"{type(module).__name__} is no LayerNorm or RMSNorm that we know; its gradients are unknown.")


def _keep(module: Any, given: Tensor, output: Tensor, measured: bool) -> Tensor:
    return _normalised(module, given, measured)


def _part(module: Any, kept: Tensor, gradient: Tensor, measured: bool) -> Plain:
    gradient = full(gradient)
    values = kept.to(gradient.dtype) * gradient
    return Plain(torch.cat([values, gradient], dim=2) if getattr(module, "bias", None) is not None else values)


NORM = Kind(
    name="Norm",
    holds=_holds,
    refusal=_refusal,
    matrix=lambda module: None,
    measure=_measure,
    keep=_keep,
    part=_part,
)
