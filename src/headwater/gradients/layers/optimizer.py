"""What Adam remembered when a checkpoint was written: read from `optimizer.pt`, without pickle, by parameter name.

The file numbers its parameters and does not name them; Recorder writes the names down as training begins.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from headwater.errors import RunError
from headwater.gradients.layers.factors import Layer


@dataclass(frozen=True)
class AdamState:
    """Adam's memory of one parameter, in its shape and not corrected for its start."""

    first: Float32[Tensor, "*shape"]
    """exp_avg: the running mean of gradients."""
    second: Float32[Tensor, "*shape"]
    """exp_avg_sq: the running mean of squared gradients."""
    largest: Float32[Tensor, "*shape"] | None
    """max_exp_avg_sq: the largest `second` so far (amsgrad)."""
    step: float
    """Steps taken."""
    betas: tuple[float, float]
    epsilon: float


def adam_states(checkpoint: Path, names: Sequence[Sequence[str]]) -> dict[str, AdamState]:
    """Read Adam's memory of every parameter that it moved, by name.

    `names`: parameter names of each group in the optimizer's order, which `optimizer.pt` does not know: those of
    `RateLog.read(RUN/headwater/rates.json).parameters`. A parameter without state (never given a gradient) is left out.
    Raises RunError where the file is missing or cannot be read without pickle, fits other groups, or is not of an
    optimizer of Adam's kind.
    """
    path = Path(checkpoint) / "optimizer.pt"
    saved = _load(path)
    groups, state = saved["param_groups"], saved["state"]
    sizes, known = [len(group["params"]) for group in groups], [len(group) for group in names]
    if sizes != known:
        raise RunError(
            f"{path}: its groups hold {sizes} parameters, but {known} were recorded. Is it of another training?"
        )
    found: dict[str, AdamState] = {}
    for group, group_names in zip(groups, names, strict=True):
        for number, name in zip(group["params"], group_names, strict=True):
            if number in state:
                found[name] = _state(path, name, state[number], group)
    if not found:
        raise RunError(f"{path}: holds no state of any parameter: no step was taken.")
    return found


def second_moments(checkpoint: Path, names: Sequence[Sequence[str]]) -> dict[str, Float32[Tensor, "*shape"]]:
    """Return Adam's second moment of every parameter that it moved, by name: exp_avg_sq / (1 - beta2^step).

    With amsgrad it is the largest so far, which divides the steps. Arguments and errors are those of `adam_states`.
    """
    found = {}
    for name, state in adam_states(checkpoint, names).items():
        values = state.second if state.largest is None else state.largest
        found[name] = values / (1.0 - state.betas[1] ** state.step)
    return found


def layer_form(layer: Layer, values: Mapping[str, Tensor]) -> Tensor:
    """Put what an optimizer keeps of a layer's parameters in the form of its gradients: [o, i or i + 1], or [p].

    Raises RunError where the layer was not trained, or has another shape.
    """
    missing = [name for name in layer.parameters if name not in values]
    if missing:
        raise RunError(f"{missing[0]}: the optimizer keeps no second moment of it. Was it frozen in training?")
    found = [values[name] for name in layer.parameters]
    if tuple(found[0].shape) != layer.shape or sum(value.numel() for value in found) != layer.size:
        shape = tuple(found[0].shape)
        raise RunError(f"{layer.parameters[0]}: the optimizer's moments have shape {shape}, the layer {layer.shape}.")
    flat = torch.cat([value.flatten() for value in found])
    return flat if layer.matrix is None else layer.unflatten(flat[None])[0]


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


def _state(path: Path, name: str, state: Mapping[str, Any], group: Mapping[str, Any]) -> AdamState:
    betas, step = group.get("betas"), state.get("step")
    first, second, largest = (state.get(kept) for kept in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"))
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or betas is None or step is None:
        holds = ", ".join(sorted(state)) or "nothing"
        raise RunError(f"{path}: {name} has no second moment of Adam's kind; its optimizer keeps {holds}.")
    if float(step) <= 0:
        raise RunError(f"{path}: {name} has taken no step yet; its second moment says nothing.")
    return AdamState(
        first.float(),
        second.float(),
        largest.float() if isinstance(largest, Tensor) else None,
        float(step),
        (float(betas[0]), float(betas[1])),
        float(group.get("eps", 1e-8)),
    )
