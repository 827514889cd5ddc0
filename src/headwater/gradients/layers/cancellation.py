"""Cancellation ratio of a group of weights: the size of the separate steps over the size of their sum.

    norm       sum eta |g_i|_2 / |dW|_2                            one number for the whole group
    element    median over touched entries of  sum eta |g_i,w| / |dW_w|
    gradient   sum_w sum eta |g_i,w| / sum_w |sum eta g_i,w|

1 means that nothing cancels; large means that examples undo each other's steps. dW is the change that training made,
or, where it is not given, the sum of the steps themselves. Source: Yeh et al. 2022 (arXiv 2202.11844), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headwater.errors import UsageError
from headwater.gradients.layers.factors import Layer, LayerFactors, Rows
from headwater.gradients.layers.ghost import squared_norms


@dataclass(frozen=True)
class Cancellation:
    """All three forms, and what they were taken over."""

    norm: float
    element: float
    gradient: float
    examples: int
    entries: int
    """Touched entries: those that at least one example pushed."""


class CancellationSums:
    """Adds up what the ratios need, batch by batch: two dense vectors for each layer and no per-example gradients.

    `groups` names groups of these layers, which may share some, so that several are measured in one pass.
    """

    def __init__(self, layers: Iterable[Layer], groups: Mapping[str, Iterable[str]] | None = None) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._groups = {_WHOLE: tuple(self._layers), **{name: tuple(group) for name, group in (groups or {}).items()}}
        self._sizes = {name: torch.zeros(layer.size, dtype=torch.float64) for name, layer in self._layers.items()}
        self._sums = {name: torch.zeros(layer.size, dtype=torch.float64) for name, layer in self._layers.items()}
        self._norms = dict.fromkeys(self._groups, 0.0)
        self._examples = 0

    def add(self, factors: Mapping[str, LayerFactors], rate: float = 1.0) -> None:
        """Count a batch of `Capture.factors` with the rate (checkpoint weight) of its steps.

        An example counts once for each time it is added: in one checkpoint or in several. Raises UsageError where
        the batch lacks a layer.
        """
        missing = self._layers.keys() - factors.keys()
        if missing:
            raise UsageError(f"a batch holds no gradients of {min(missing)}.")
        count = next(iter(factors.values())).examples
        squares: dict[str, Tensor] = {}
        for name in self._layers:
            squares[name] = squared_norms(factors[name]).double().cpu()
            sizes, sums = _entry_sums(factors[name])
            self._sizes[name] += abs(rate) * sizes
            self._sums[name] += rate * sums
        for group, names in self._groups.items():
            total = sum((squares[name] for name in names), torch.zeros(count, dtype=torch.float64))
            self._norms[group] += abs(rate) * float(total.sqrt().sum())
        self._examples += count

    def ratios(self, changes: Mapping[str, Tensor] | None = None, *, group: str | None = None) -> Cancellation:
        """Return the ratios of a group, or of all layers. `changes`: parameter name -> its change in training.

        Infinite where the sum is exactly 0; NaN where no example pushed at all.
        """
        named = _WHOLE if group is None else group
        length = pushed = left = 0.0
        elements = []
        for name in self._groups[named]:
            sizes, sums = self._sizes[name], self._sums[name]
            moved = sums if changes is None else _change(self._layers[name], changes)
            touched = sizes > 0
            length += float(moved.square().sum())
            pushed, left = pushed + float(sizes.sum()), left + float(sums.abs().sum())
            elements.append((sizes[touched] / moved[touched].abs()).float())
        every = torch.cat(elements)
        return Cancellation(
            norm=_ratio(self._norms[named], length**0.5),
            element=float(every.median()) if len(every) else math.nan,
            gradient=_ratio(pushed, left),
            examples=self._examples,
            entries=len(every),
        )


_WHOLE = ""


def _ratio(above: float, below: float) -> float:
    if below:
        return above / below
    return math.inf if above else math.nan


def _change(layer: Layer, changes: Mapping[str, Tensor]) -> Tensor:
    missing = [name for name in layer.parameters if name not in changes]
    if missing:
        raise UsageError(f"the change of {missing[0]} is not given.")
    flat = torch.cat([changes[name].detach().double().cpu().flatten() for name in layer.parameters])
    if len(flat) != layer.size:
        raise UsageError(f"the change of {layer.parameters[0]} has another shape than the layer.")
    return flat


def _entry_sums(factors: LayerFactors) -> tuple[Tensor, Tensor]:
    """Per entry, in the module's own order: sum over examples of |g|, and of g."""
    if factors.parts and all(isinstance(part, Rows) for part in factors.parts):
        return _lookup_sums(factors)
    sizes = torch.zeros(factors.layer.size, dtype=torch.float64)
    sums = torch.zeros(factors.layer.size, dtype=torch.float64)
    for piece in factors.chunks():
        dense = piece.dense()
        sizes += dense.abs().sum(dim=0).double().cpu()
        sums += dense.sum(dim=0).double().cpu()
    return sizes, sums


def _lookup_sums(factors: LayerFactors) -> tuple[Tensor, Tensor]:
    """The same for an embedding: each example's places of a token are summed first; only rows in use are touched."""
    parts = [part for part in factors.parts if isinstance(part, Rows)]
    ids, right = torch.cat([part.ids for part in parts], dim=1), torch.cat([part.right for part in parts], dim=1)
    count, width = parts[0].count, right.shape[2]
    keys = (torch.arange(len(ids), device=ids.device)[:, None] * count + ids).flatten()
    pairs, slots = torch.unique(keys, return_inverse=True)
    pushed = right.new_zeros(len(pairs), width).index_add_(0, slots, right.flatten(0, 1)).double().cpu()
    tokens = (pairs % count).cpu()
    sizes = torch.zeros(count, width, dtype=torch.float64).index_add_(0, tokens, pushed.abs())
    sums = torch.zeros(count, width, dtype=torch.float64).index_add_(0, tokens, pushed)
    return sizes.flatten(), sums.flatten()
