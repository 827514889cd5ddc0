"""Preconditioning by an optimizer's second moments: G / (sqrt(v) + eps), entry by entry, as Adam divides its steps.

v is Adam's running mean of squared gradients, corrected for its start: exp_avg_sq / (1 - beta2^step). A quotient entry
by entry has no factors, so that a linear layer's gradient is formed dense: t o i multiply-adds and o i numbers an
example, then projected. Lookups and vectors stay as cheap as they are.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import RunError
from headwater.gradients.layers.factors import Dense, Layer, LayerFactors, Outer, Part, Plain, Rows


@dataclass(frozen=True)
class Denominators:
    """sqrt(v) + eps of one layer, in the form of its gradients."""

    values: Float[Tensor, "*form"]
    """[o, i or i + 1] of a matrix, [p] of a vector."""


def second_moments(checkpoint: Path, names: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """Read Adam's bias-corrected second moment of every parameter that the optimizer moved, float32, by name.

    `names`: parameter names of each group in the optimizer's order, which `optimizer.pt` does not know: those of
    `RateLog.read(RUN/headwater/rates.json).parameters`. With amsgrad it is the largest moment so far, which divides the
    steps. A parameter without state (never given a gradient) is left out. Raises RunError where the file is missing or
    cannot be read without pickle, fits other groups, or is not of an optimizer of Adam's kind.
    """
    path = Path(checkpoint) / "optimizer.pt"
    saved = _load(path)
    groups, state = saved["param_groups"], saved["state"]
    sizes, known = [len(group["params"]) for group in groups], [len(group) for group in names]
    if sizes != known:
        raise RunError(
            f"{path}: its groups hold {sizes} parameters, but {known} were recorded. Is it of another training?"
        )
    found: dict[str, Tensor] = {}
    for group, group_names in zip(groups, names, strict=True):
        for number, name in zip(group["params"], group_names, strict=True):
            if number in state:
                found[name] = _moment(path, name, state[number], group)
    if not found:
        raise RunError(f"{path}: holds no state of any parameter: no step was taken.")
    return found


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RunError(f"{path}: no such file. Second moments need checkpoints saved with save_only_model=False.")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as plain tensors ({type(error).__name__}).") from error
    if not isinstance(saved, dict) or not {"state", "param_groups"} <= saved.keys():
        raise RunError(f"{path}: is not the state of a torch optimizer.")
    return saved


def _moment(path: Path, name: str, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    betas, step = group.get("betas"), state.get("step")
    values = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
    if not isinstance(values, Tensor) or betas is None or step is None:
        holds = ", ".join(sorted(state)) or "nothing"
        raise RunError(f"{path}: {name} has no second moment of Adam's kind; its optimizer keeps {holds}.")
    correction = 1.0 - float(betas[1]) ** float(step)
    if correction <= 0:
        raise RunError(f"{path}: {name} has taken no step yet; its second moment says nothing.")
    moment: Tensor = values.float() / correction
    return moment


def denominators(
    layers: Sequence[Layer], moments: Mapping[str, Tensor], *, epsilon: float = 1e-8
) -> dict[str, Denominators]:
    """Return sqrt(v) + eps of each layer. Raises RunError where a layer was not trained, or has another shape."""
    return {layer.name: Denominators(_form(layer, moments).sqrt() + epsilon) for layer in layers}


def _form(layer: Layer, moments: Mapping[str, Tensor]) -> Tensor:
    missing = [name for name in layer.parameters if name not in moments]
    if missing:
        raise RunError(f"{missing[0]}: the optimizer keeps no second moment of it. Was it frozen in training?")
    found = [moments[name] for name in layer.parameters]
    if tuple(found[0].shape) != layer.shape or sum(values.numel() for values in found) != layer.size:
        shape = tuple(found[0].shape)
        raise RunError(f"{layer.parameters[0]}: the optimizer's moments have shape {shape}, the layer {layer.shape}.")
    flat = torch.cat([values.flatten() for values in found])
    return flat if layer.matrix is None else layer.unflatten(flat[None])[0]


def divide(factors: LayerFactors, by: Denominators) -> LayerFactors:
    """Divide every gradient entry by entry. Linear layers become dense: see `LayerFactors.chunks`."""
    return LayerFactors(factors.layer, factors.examples, tuple(_divide(part, by.values) for part in factors.parts))


def _divide(part: Part, by: Tensor) -> Part:
    if isinstance(part, Plain):
        return Plain(part.values / by.to(part.values))
    if isinstance(part, Rows):
        return Rows(part.ids, part.right / by.to(part.right)[part.ids, : part.right.shape[2]], part.count, part.bias)
    matrix = part.dense() if isinstance(part, Outer) else part.matrix
    return Dense(matrix / by.to(matrix))
