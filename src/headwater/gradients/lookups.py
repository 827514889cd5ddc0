"""Hooks on the word-embedding lookups of a model: make what they return differentiable, and nothing else.

Parameters are frozen and the model is in evaluation mode while the hooks stand, so a backward pass computes
gradients of activations only, about two thirds of a training step, and examples of a batch do not interact: the
gradient of the *summed* loss at the lookup's output holds every example's own gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from headwater.errors import ModelError
from headwater.gradients.frozen import frozen

_LOOKED_AT = 512  # places at which a lookup is held against its matrix
_SAME = 1e-3  # relative; a lookup's output may be rounded to 16 bits by autocast, but is no other function


@dataclass(frozen=True)
class Lookup:
    """One use of the embedding matrix in a forward pass: E[ids] * scale = leaf."""

    module: nn.Embedding
    ids: Int64[Tensor, "n t"]
    leaf: Float[Tensor, "n t d"]
    scale: float
    """What the module multiplies E[ids] by (`embed_scale` of Gemma, BART), so d leaf / d E[ids] = scale."""


def input_embeddings(model: nn.Module) -> list[nn.Embedding]:
    """Return every lookup module that holds the model's input-embedding matrix.

    T5 and BART hold the matrix in separate encoder and decoder modules, and a hook on `get_input_embeddings()`
    alone never fires on them. Raises ModelError when there is none, or one whose gradients would not be sums.
    """
    try:
        matrix: Any = model.get_input_embeddings().weight  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        matrix = None
    if not isinstance(matrix, Tensor):
        raise ModelError(f"{type(model).__name__} has no input-embedding matrix (get_input_embeddings).")
    modules = [module for module in model.modules() if isinstance(module, nn.Embedding) and module.weight is matrix]
    if not modules:
        raise ModelError(f"{type(model).__name__}: no nn.Embedding holds its input-embedding matrix.")
    for module in modules:
        if module.max_norm is not None or module.scale_grad_by_freq:
            raise ModelError(
                f"{type(model).__name__}: an embedding with max_norm or scale_grad_by_freq has gradients that "
                "depend on the whole batch; per-example gradients are not defined for it."
            )
    return modules


@contextmanager
def capture_lookups(model: nn.Module) -> Iterator[list[Lookup]]:
    """Within this context each forward pass appends its lookups to the yielded list; clear it between passes.

    Everything is put back on leaving, also after an exception: hooks, `requires_grad` of every parameter, the
    training mode of every module. Raises ModelError (from the forward pass) when a lookup module does more than
    look up and scale.
    """
    modules = input_embeddings(model)
    lookups: list[Lookup] = []
    scales: dict[nn.Embedding, float] = {}

    def replace(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
        assert isinstance(module, nn.Embedding)
        if not inputs or not isinstance(output, Tensor) or output.shape != (*inputs[0].shape, module.embedding_dim):
            raise ModelError(f"{type(module).__name__}: unknown shape of the embedding lookup's output.")
        if module not in scales:
            scales[module] = lookup_scale(module, inputs[0], output)
        leaf = output.detach().requires_grad_()
        lookups.append(Lookup(module, inputs[0], leaf, scales[module]))
        return leaf

    handles = [module.register_forward_hook(replace) for module in modules]
    try:
        with frozen(model):
            yield lookups
    finally:
        for handle in handles:
            handle.remove()


def lookup_scale(module: nn.Embedding, ids: Tensor, output: Tensor) -> float:
    """Measure what the module multiplies its rows by; attributes have many names, the output has one meaning."""
    step = max(ids.numel() // _LOOKED_AT, 1)  # places spread over the whole batch
    plain = nn.functional.embedding(ids.reshape(-1)[::step], module.weight).double()
    seen = output.detach().reshape(-1, output.shape[-1])[::step].double()
    energy = float((plain * plain).sum())
    if not math.isfinite(energy):
        return 1.0  # the gradient will not be finite either, and that error names the row
    scale = float((plain * seen).sum()) / energy if energy else 1.0
    if float((seen - scale * plain).abs().max()) > _SAME * max(float(seen.abs().max()), 1e-30):
        raise ModelError(f"{type(module).__name__} does more than look up and scale; its gradients are unknown to us.")
    for exact in (1.0, _number(getattr(module, "embed_scale", None))):
        if exact is not None and abs(scale - exact) <= _SAME * abs(exact):
            return exact
    return scale


def _number(value: Any) -> float | None:
    if isinstance(value, torch.Tensor):
        return float(value)
    return float(value) if isinstance(value, int | float) else None
