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
_WIDE = 128  # numbers a group from which scaling group by group is faster than spreading the exponents


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
            raise ValueError(f"column {self.name!r}: a name of small letters and lengths above 0 are needed")
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
        encoded = [encode_half(group) for group in torch.split(values, list(self.groups), dim=1)]
        payload = torch.cat([payload for payload, _ in encoded], dim=1)
        return {self.name: payload.numpy(), f"{self.name}.exponents": np.stack([e for _, e in encoded], axis=1)}


class Picked:
    """Some numbers of a column (all, by default), and how to decode them.

    `at` picks along the only axis of a row. Raises ValueError when the column has another number of axes.
    """

    def __init__(self, column: Column, at: slice | Int64[np.ndarray, "k"] | None = None) -> None:
        if at is not None and len(column.shape) != 1:
            raise ValueError(f"column {column.name!r} has {len(column.shape)} axes: numbers are picked of one axis")
        self._column = column
        self._at = at
        self.shape = column.shape
        if len(column.shape) == 1:
            of = np.repeat(np.arange(len(column.groups)), column.groups)
            of = of if self._at is None else of[self._at]
            self.shape = of.shape
            self._group_of = torch.from_numpy(of)
            edges = np.flatnonzero(np.diff(of, prepend=-1, append=-1))
            self._runs = list(zip(edges[:-1], edges[1:], of[edges[:-1]], strict=True))

    def decode(self, arrays: Mapping[str, Tensor], rows: slice | Int64[Tensor, "n"]) -> Float32[Tensor, "n ..."]:
        """Decode these numbers of some rows; what is returned is never a view of the file."""
        name = self._column.name
        stored = arrays[name][rows]
        if isinstance(self._at, slice):
            stored = stored[:, self._at]
        elif self._at is not None:
            stored = stored[:, torch.from_numpy(self._at)]
        values = stored.to(torch.float32, copy=True)
        if self._column.dtype == "float16":
            self._scale(values, torch.from_numpy(powers(arrays[f"{name}.exponents"][rows].numpy())))
        return values

    def _scale(self, values: Float32[Tensor, "n k"], scales: Float32[Tensor, "n groups"]) -> None:
        if len(self._runs) * _WIDE > values.shape[1]:
            values *= scales[:, self._group_of]
            return
        for start, stop, group in self._runs:
            values[:, start:stop] *= scales[:, group, None]
