"""Linear layers: y = W x + b. dl/dW = sum_t g_t x_t^T, dl/db = sum_t g_t. nn.Linear and the Conv1D of GPT-2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headwater.gradients.layers.factors import Outer
from headwater.gradients.layers.kinds.kind import Kind, compare, full

_CHECKED = 4  # places; that a module is linear shows at one


def _refusal(module: nn.Module) -> str:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter):
        return "its weight is computed from other parameters (a parametrization)"
    if weight.ndim != 2 or not weight.is_floating_point():
        return "its weight is packed (quantized)"
    return ""


def _refusal_linear(module: nn.Linear) -> str:
    refusal = _refusal(module)
    if not refusal and module.weight.shape != (module.out_features, module.in_features):
        return "its weight is packed (quantized)"
    return refusal


def _measure(module: Any, given: Tensor, output: Tensor, weight: Tensor) -> None:
    inputs = full(given.detach().reshape(-1, weight.shape[1])[:_CHECKED])
    weight = full(weight.detach())
    bias = None if module.bias is None else full(module.bias.detach())
    compare(module, output.reshape(-1, weight.shape[0])[:_CHECKED], nn.functional.linear(inputs, weight, bias))


def _keep(module: Any, given: Tensor, output: Tensor, measured: None) -> Tensor:
    return given.detach()


def _part(module: Any, kept: Tensor, gradient: Tensor, measured: None) -> Outer:
    return Outer(full(gradient), full(kept).to(full(gradient).dtype), module.bias is not None)


LINEAR = Kind(
    name="Linear",
    holds=lambda module: isinstance(module, nn.Linear),
    refusal=_refusal_linear,
    matrix=lambda module: (module.weight.shape[0], module.weight.shape[1]),
    measure=lambda module, given, output: _measure(module, given, output, module.weight),
    keep=_keep,
    part=_part,
)

CONV1D = Kind(
    name="Conv1D",
    holds=lambda module: isinstance(module, Conv1D),
    refusal=_refusal,
    matrix=lambda module: (module.weight.shape[1], module.weight.shape[0]),
    measure=lambda module, given, output: _measure(module, given, output, torch.t(module.weight)),
    keep=_keep,
    part=_part,
    transposed=True,
)
