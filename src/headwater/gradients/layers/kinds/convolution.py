"""nn.Conv1d: a linear layer over windows. y_t = W window_t(x) + b, so dl/dW = sum_t g_t window_t^T."""

from __future__ import annotations

from torch import Tensor, nn

from headwater.errors import ModelError
from headwater.gradients.layers.factors import Outer
from headwater.gradients.layers.kinds.kind import Kind, compare, full


def _refusal(module: nn.Conv1d) -> str:
    if not isinstance(module.weight, nn.Parameter):
        return "its weight is computed from other parameters (a parametrization)"
    if module.groups != 1:
        return f"it convolves {module.groups} groups of channels apart"
    if module.padding_mode != "zeros":
        return f"padding_mode {module.padding_mode!r}"
    return ""


def _windows(module: nn.Conv1d, given: Tensor) -> Tensor:
    """The inputs under the kernel at each place of the output [n, t, channels x width]."""
    padded = nn.functional.pad(given, list(module._reversed_padding_repeated_twice))
    spread = nn.functional.unfold(
        padded[:, :, None], (1, module.kernel_size[0]), dilation=(1, module.dilation[0]), stride=(1, module.stride[0])
    )
    return spread.transpose(1, 2)


def _measure(module: nn.Conv1d, given: Tensor, output: Tensor) -> None:
    if given.ndim != 3:
        raise ModelError(f"Conv1d without a batch dimension: input {tuple(given.shape)}.")
    windows = _windows(module, full(given.detach()[:1]))
    bias = None if module.bias is None else full(module.bias.detach())
    expected = nn.functional.linear(windows, full(module.weight.detach()).flatten(1), bias)
    compare(module, output[:1].transpose(1, 2), expected)


def _keep(module: nn.Conv1d, given: Tensor, output: Tensor, measured: None) -> Tensor:
    return given.detach().transpose(1, 2)


def _part(module: nn.Conv1d, kept: Tensor, gradient: Tensor, measured: None) -> Outer:
    windows = _windows(module, full(kept).transpose(1, 2))
    return Outer(full(gradient), windows.to(full(gradient).dtype), module.bias is not None)


CONVOLUTION = Kind(
    name="Conv1d",
    holds=lambda module: isinstance(module, nn.Conv1d),
    refusal=_refusal,
    matrix=lambda module: (module.weight.shape[0], module.weight[0].numel()),
    measure=_measure,
    keep=_keep,
    part=_part,
    channels=1,
    token_wise=False,
)
