"""nn.Embedding, the input side: y_t = scale E[id_t], so dl/dE = sum_t onehot(id_t) (scale g_t)^T."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from headwater.errors import ModelError
from headwater.gradients.layers.factors import Rows
from headwater.gradients.layers.kinds.kind import Kind, full
from headwater.gradients.lookups import lookup_scale


def _refusal(module: nn.Embedding) -> str:
    if not isinstance(module.weight, nn.Parameter):
        return "its weight is computed from other parameters (a parametrization)"
    if module.max_norm is not None or module.scale_grad_by_freq:
        return "max_norm or scale_grad_by_freq: its gradients depend on the whole batch"
    takes = list(inspect.signature(type(module).forward).parameters)
    if type(module).forward is not nn.Embedding.forward and len(takes) != 2:
        return f"it computes what it looks up from {', '.join(takes[1:])}"
    return ""


def _measure(module: nn.Embedding, given: Tensor, output: Tensor) -> float:
    if given.is_floating_point() or output.shape != (*given.shape, module.embedding_dim):
        raise ModelError(f"{type(module).__name__}: unknown shape of the embedding lookup's output.")
    return lookup_scale(module, given, output)


def _keep(module: nn.Embedding, given: Tensor, output: Tensor, measured: float) -> Tensor:
    return given.detach().long()


def _part(module: nn.Embedding, kept: Tensor, gradient: Tensor, measured: float) -> Rows:
    values = full(gradient) if measured == 1.0 else full(gradient) * measured
    if module.padding_idx is not None:  # dense autograd never moves this row either
        values = torch.where((kept == module.padding_idx)[..., None], torch.zeros_like(values[:1, :1]), values)
    return Rows(kept, values, module.num_embeddings)


EMBEDDING = Kind(
    name="Embedding",
    holds=lambda module: isinstance(module, nn.Embedding),
    refusal=_refusal,
    matrix=lambda module: (module.weight.shape[0], module.weight.shape[1]),
    measure=_measure,
    keep=_keep,
    part=_part,
)
