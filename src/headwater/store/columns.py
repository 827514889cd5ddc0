"""Columns: arrays of one fixed shape a row, and how they lie in a file.

    NAME            [n, *shape]  the numbers, in storage dtype
    NAME.exponents  [n, groups]  int8, float16 alone: numbers of a group = payload * 2**exponent

A group is a stretch of a row whose numbers are of one size (a layer), so that a small layer beside a large one does not
sink into float16's subnormal numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from headwater.store.arrays import Shapes
from headwater.store.halves import encode_half, powers
from headwater.store.postings import Dtype

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_WIDE = 128  # numbers a piece from which scaling piece by piece is faster than spreading the scales over all numbers


@dataclass(frozen=True)
class Column:
    """An array of `shape` (of one row; () for a scalar) and how it is stored.

    `widths` are the lengths of the groups that share an exponent; they add up to the only axis. Without them the
    row is one group. Raises ValueError when these do not fit each other.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype = "float32"
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        lengths = (*self.shape, *self.widths)
        if not _NAME.fullmatch(self.name) or not all(type(length) is int and length > 0 for length in lengths):
            raise ValueError(f"column {self.name!r}: a name of small letters and whole lengths above 0 are needed")
        if self.dtype not in get_args(Dtype) or (self.dtype == "float16" and len(self.shape) != 1):
            raise ValueError(f"column {self.name!r}: float32 is needed, or float16 with one axis")
        if self.widths and (len(self.shape) != 1 or sum(self.widths) != self.shape[0]):
            raise ValueError(f"column {self.name!r}: the widths {self.widths} do not add up to the shape {self.shape}")

    def shapes(self, rows: int) -> Shapes:
        """Return what a file of `rows` rows holds of this column."""
        shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            self.name: (np.dtype(self.dtype), (rows, *self.shape))
        }
        if self.dtype == "float16":
            shapes[f"{self.name}.exponents"] = (np.dtype(np.int8), (rows, len(self.groups)))
        return shapes

    @property
    def groups(self) -> tuple[int, ...]:
        """Return the lengths of the groups."""
        return self.widths or self.shape

    @property
    def limit(self) -> float:
        """Return what all values must stay below: from there float16 would round to what float32 does not hold."""
        return 2.0**128 * (1 - 2.0**-12) if self.dtype == "float16" else math.inf

    def encode(self, values: Float32[Tensor, "n ..."]) -> dict[str, NDArray[Any]]:
        """Encode finite values of some rows: the arrays that `shapes` names."""
        if self.dtype == "float32":
            return {self.name: values.numpy()}
        rows, at = len(values), 0
        payloads, exponents = [], []
        for width, run in groupby(self.groups):  # groups of one width at once
            count = len(list(run))
            payload, powers_of_two = encode_half(values[:, at : at + count * width].reshape(rows * count, width))
            payloads.append(payload.reshape(rows, count * width))
            exponents.append(powers_of_two.reshape(rows, count))
            at += count * width
        return {self.name: torch.cat(payloads, dim=1).numpy(), f"{self.name}.exponents": np.hstack(exponents)}


class Picked:
    """Some numbers of a column (all, by default), and how to decode them.

    `at` picks along the only axis of a row. Raises ValueError when the column has another number of axes, IndexError
    for a number that is not there.
    """

    def __init__(self, column: Column, at: slice | Int64[np.ndarray, "k"] | None = None) -> None:
        if at is not None and len(column.shape) != 1:
            raise ValueError(f"column {column.name!r} has {len(column.shape)} axes: numbers are picked of one axis")
        self.shape = column.shape
        self._name = column.name
        self._at = slice(None)
        self._index: Tensor | None = None
        self._scaling: _Scaling | None = None
        if at is not None:
            numbers = np.arange(column.shape[0])[at]
            self.shape = numbers.shape
            if isinstance(at, slice) and (at.step is None or at.step > 0):
                self._at = at
            else:
                self._index = torch.from_numpy(numbers.copy())  # tensors know no negative strides
        if column.dtype == "float16":
            group_of = np.repeat(np.arange(len(column.groups)), column.groups)
            self._scaling = _Scaling(group_of if at is None else group_of[at])

    def decode(self, arrays: Mapping[str, Tensor], rows: slice | Int64[Tensor, "n"]) -> Float32[Tensor, "n ..."]:
        """Decode these numbers of some rows; what is returned is never a view of the file."""
        stored = arrays[self._name][rows]
        if self._index is not None:
            stored = stored.index_select(1, self._index)
        elif stored.dim() == 2:
            stored = stored[:, self._at]
        values = stored.to(torch.float32, copy=True)
        if self._scaling is not None:
            self._scaling.apply(values, powers(arrays[f"{self._name}.exponents"][rows].numpy()))
        return values


class _Scaling:
    """Multiply numbers [n, k] in place by the scale [n, groups] of the group that each is of.

    Numbers side by side of one group are a run; runs of one length and successive groups are a piece, which is scaled
    at once as [n, runs, length].
    """

    def __init__(self, group_of: Int64[np.ndarray, "k"]) -> None:
        edges = np.flatnonzero(np.diff(group_of, prepend=-1, append=-1))
        begins, self._lengths = edges[:-1], np.diff(edges)
        self._groups = group_of[begins]
        first = (np.diff(self._lengths, prepend=-1) != 0) | (np.diff(self._groups, prepend=-2) != 1)
        firsts = [*np.flatnonzero(first).tolist(), len(begins)]
        self._pieces = [
            (int(begins[a]), int(self._groups[a]), b - a, int(self._lengths[a])) for a, b in pairwise(firsts)
        ]

    def apply(self, values: Float32[Tensor, "n k"], scales: Float32[np.ndarray, "n groups"]) -> None:
        if len(self._pieces) * _WIDE > values.shape[1]:
            values *= torch.from_numpy(np.repeat(scales[:, self._groups], self._lengths, axis=1))
            return
        by_group = torch.from_numpy(scales)[:, :, None]
        for begin, group, runs, length in self._pieces:
            piece = values[:, begin : begin + runs * length].view(len(values), runs, length)
            piece *= by_group[:, group : group + runs]
