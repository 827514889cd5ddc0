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
    """Adds up what the ratios need, batch by batch: three dense vectors for each layer and no per-example gradients."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._sizes = {name: torch.zeros(layer.size, dtype=torch.float64) for name, layer in self._layers.items()}
        self._sums = {name: torch.zeros(layer.size, dtype=torch.float64) for name, layer in self._layers.items()}
        self._norms = 0.0
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
        squares = torch.zeros(count, dtype=torch.float64)
        for name in self._layers:
            squares += squared_norms(factors[name]).double().cpu()
            sizes, sums = _entry_sums(factors[name])
            self._sizes[name] += abs(rate) * sizes
            self._sums[name] += rate * sums
        self._norms += abs(rate) * float(squares.sqrt().sum())
        self._examples += count

    def ratios(self, changes: Mapping[str, Tensor] | None = None) -> Cancellation:
        """Return the ratios of the whole group. `changes`: parameter name -> its change in training.

        Infinite where the sum is exactly 0; NaN where no example pushed at all.
        """
        sizes = torch.cat(list(self._sizes.values()))
        sums = torch.cat(list(self._sums.values()))
        moved = sums if changes is None else torch.cat([_change(layer, changes) for layer in self._layers.values()])
        touched = sizes > 0
        return Cancellation(
            norm=_ratio(self._norms, float(moved.norm())),
            element=float((sizes[touched] / moved[touched].abs()).median()) if bool(touched.any()) else math.nan,
            gradient=_ratio(float(sizes.sum()), float(sums.abs().sum())),
            examples=self._examples,
            entries=int(touched.sum()),
        )


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
