"""What layers a model has: every module that holds parameters, its kind, and whether its gradients can be captured.

Tied weights are one parameter with two sides: the lookups of its rows (the embedding, the input side) and the products
with it (the head, the output side). What is meant is a choice of its own:

    separate   each side is a layer; a score over both has no cross terms       input   only the lookups
    joint      one layer, the true gradient of the parameter, with cross terms  output  only the head
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

from headwater.errors import ModelError, UsageError
from headwater.gradients.layers.factors import Layer
from headwater.gradients.layers.kinds import EMBEDDING, Kind, kind_of

Tied = Literal["separate", "joint", "input", "output"]


@dataclass(frozen=True)
class LayerRow:
    """One module that holds parameters."""

    name: str
    kind: str
    """Linear, Conv1D, Conv1d, Embedding, Norm; the class's name where it is none of these."""
    shape: tuple[int, ...]
    """Of the weight; of the largest parameter where there is none."""
    bias: bool
    size: int
    """Parameters that it holds: the length of one example's gradient."""
    refusal: str
    """Why its gradients cannot be captured; empty: they can."""
    shares: str
    """The module before it that holds the same weight, if any."""

    @property
    def supported(self) -> bool:
        """Can it be selected?"""
        return not self.refusal


@dataclass(frozen=True)
class _Place:
    """A supported module in the model."""

    name: str
    module: Any
    kind: Kind

    @property
    def lookup(self) -> bool:
        return self.kind is EMBEDDING


def layer_table(model: nn.Module) -> tuple[LayerRow, ...]:
    """List every module that holds parameters of its own, in the model's order.

    A module whose parameters all belong to supported layers (a container that keeps a head's bias) is left out.
    """
    supported = {name for name, _, _, refusal in _owners(model) if not refusal}
    covered = {id(p) for name in supported for p in model.get_submodule(name).parameters(recurse=False)}
    first: dict[int, str] = {}
    rows = []
    for name, module, kind, refusal in _owners(model):
        parameters = list(module.parameters(recurse=False))
        if refusal and kind is None and all(id(p) in covered for p in parameters):
            continue
        weight = module.weight if kind is not None else max(parameters, key=lambda parameter: parameter.numel())
        shares = ""
        if isinstance(weight, nn.Parameter):
            shares = first.get(id(weight), "")
            first.setdefault(id(weight), name)
        rows.append(
            LayerRow(
                name,
                kind.name if kind is not None else type(module).__name__,
                tuple(weight.shape),
                getattr(module, "bias", None) is not None,
                sum(p.numel() for p in parameters),
                refusal,
                shares,
            )
        )
    return tuple(rows)


def layers_of(model: nn.Module, tied: Tied = "separate") -> tuple[Layer, ...]:
    """Return every layer that can be captured, in the model's order; modules that share a weight are one layer.

    Raises UsageError for an unknown choice of `tied`.
    """
    if tied not in get_args(Tied):
        raise UsageError(f"tied must be one of {', '.join(get_args(Tied))}; it is {tied!r}.")
    places = [_Place(name, module, kind) for name, module, kind, refusal in _owners(model) if kind and not refusal]
    lookups = {id(place.module.weight) for place in places if place.lookup}
    products = {id(place.module.weight) for place in places if not place.lookup}
    groups: dict[tuple[int, ...], list[_Place]] = {}
    for place in places:
        weight = id(place.module.weight)
        both = weight in lookups and weight in products
        if both and tied in ("input", "output") and place.lookup != (tied == "input"):
            continue
        bias = getattr(place.module, "bias", None)
        key = (weight,) if both and tied == "joint" else (weight, id(bias), place.lookup)
        groups.setdefault(key, []).append(place)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return tuple(_layer(group, names) for group in groups.values())


def _layer(group: list[_Place], names: dict[int, str]) -> Layer:
    first = group[0]
    biases = {id(place.module.bias): place.module.bias for place in group if _bias(place.module) is not None}
    transposed = {place.kind.transposed for place in group}
    unlike = [place for place in group if not place.lookup and bool(biases) != (_bias(place.module) is not None)]
    if len(biases) > 1 or len(transposed) > 1 or unlike:
        shared = ", ".join(place.name for place in group)
        raise ModelError(f"{shared} share a weight but not a bias or a layout: choose tied='separate'.")
    matrix = first.kind.matrix(first.module)
    bias = next(iter(biases.values()), None)
    parameters = [first.module.weight] + ([bias] if bias is not None else [])
    return Layer(
        name=first.name,
        modules=tuple(place.name for place in group),
        matrix=matrix,
        shape=tuple(first.module.weight.shape),
        bias=bias is not None,
        transposed=first.kind.transposed,
        parameters=tuple(names[id(parameter)] for parameter in parameters),
        size=sum(parameter.numel() for parameter in parameters),
        token_wise=all(place.kind.token_wise for place in group),
    )


def _bias(module: nn.Module) -> Any:
    return getattr(module, "bias", None)


def _owners(model: nn.Module) -> Iterator[tuple[str, Any, Kind | None, str]]:
    """Every module with parameters of its own: name, module, kind, and why it is refused ("": it is not)."""
    hidden, idle = _behind_attention(model), _idle_adapters(model)
    for name, module in model.named_modules():
        kind = kind_of(module)
        if kind is None and not any(True for _ in module.parameters(recurse=False)):
            continue
        if kind is None:
            yield name, module, None, f"no kind that we know ({type(module).__name__})"
        elif id(module) in hidden:
            yield name, module, kind, "nn.MultiheadAttention uses its weight without calling it"
        elif id(module) in idle:
            yield name, module, kind, "peft keeps it aside: another module runs in its place"
        elif name.endswith("relative_attention_bias"):
            yield name, module, kind, "its lookups are pairs of places, the same for all examples of a batch"
        else:
            yield name, module, kind, kind.refusal(module)


def active_adapters(model: nn.Module) -> list[str]:
    """Return the names of modules that peft runs beside frozen layers, or in their place.

    The adapters of lookups are bare parameters: of these it is the dict that holds them.
    """
    found = []
    for name, _, active, adapters in _adapted(model):
        for kind, entries in adapters.items():
            if isinstance(entries, nn.ModuleDict):
                found += [f"{name}.{kind}.{key}" for key in entries if key in active]
            elif any(key in active for key in entries):
                found.append(f"{name}.{kind}")
    return found


def _idle_adapters(model: nn.Module) -> set[int]:
    """What peft keeps beside what runs: adapters that are not active, and the original of a layer trained whole."""
    idle: set[int] = set()
    for _, module, active, adapters in _adapted(model):
        lists = [entries for entries in adapters.values() if isinstance(entries, nn.ModuleDict)]
        aside = [entry for entries in lists for key, entry in entries.items() if key not in active]
        original, copies = getattr(module, "original_module", None), getattr(module, "modules_to_save", {})
        if isinstance(original, nn.Module) and any(key in copies for key in active):
            aside.append(original)
        idle |= {id(inner) for entry in aside for inner in entry.modules()}
    return idle


def _adapted(
    model: nn.Module,
) -> Iterator[tuple[str, nn.Module, Sequence[str], dict[str, nn.ModuleDict | nn.ParameterDict]]]:
    """Modules that peft put adapters into: name, module, names of the active ones, and all by kind, then name."""
    for name, module in model.named_modules():
        active = getattr(module, "active_adapters", None)
        if isinstance(active, list | tuple):
            children = module.named_children()
            kept = {kind: child for kind, child in children if isinstance(child, nn.ModuleDict | nn.ParameterDict)}
            yield name, module, active, kept


def _behind_attention(model: nn.Module) -> set[int]:
    """Modules inside nn.MultiheadAttention, whose hooks never fire."""
    return {
        id(inner)
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
        for inner in module.modules()
        if inner is not module
    }
