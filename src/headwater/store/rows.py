"""Stores of arrays of a fixed shape a row: projected layer gradients, representations.

One immutable file a range of rows and checkpoint, as of token gradients; within a file rows stand in their order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from headwater.errors import StoreError
from headwater.files import canonical_json
from headwater.store.arrays import Shapes, open_arrays, write_arrays
from headwater.store.build import build_files
from headwater.store.check import Mapped, check_sizes, verify_files
from headwater.store.columns import Column, Picked
from headwater.store.manifest import Contents, RowRange, StoredCheckpoint, read_contents

RowsOf = Callable[[StoredCheckpoint, RowRange], Iterable[tuple[Int64[Tensor, "n"], dict[str, Tensor]]]]
"""Give the columns of a range of rows at a checkpoint: batches in any order, their rows numbered in the corpus, each
row of the range exactly once, values [n, *shape]."""

_BLOCK = 1 << 22  # bytes of a decoded block: larger ones leave the cache, and their memory is mapped anew each time
_BUG = "This is a bug in Headwater: please report it."


@dataclass(frozen=True, kw_only=True)
class RowManifest(Contents):
    """What such a store is of. `spec` is whatever else its numbers depend on (layers, projection, seed): JSON."""

    kind: str
    spec: Mapping[str, Any]
    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", json.loads(canonical_json(self.spec)))  # as it will be read: no tuples
        if not self.columns or len({column.name for column in self.columns}) < len(self.columns):
            raise ValueError("columns are needed, each of a name of its own")

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> Self:
        """See `Contents.of_json`."""
        columns = tuple(
            Column(**{**entry, "shape": tuple(entry["shape"]), "widths": tuple(entry["widths"])})
            for entry in fields["columns"]
        )
        manifest = cls(**{**fields, "columns": columns})
        if not isinstance(manifest.kind, str) or not isinstance(manifest.spec, dict):
            raise ValueError("a field is not of its kind")
        return manifest

    def own_facts(self) -> dict[str, Any]:
        """Return the kind, the columns by name, and the spec."""
        columns = {
            column.name: {"shape": list(column.shape), "dtype": column.dtype, "widths": list(column.widths)}
            for column in self.columns
        }
        return {"kind": self.kind, "columns": columns, "spec": self.spec}

    def shapes(self, rows: RowRange) -> Shapes:
        """Return what the segment of a range holds."""
        return {name: array for column in self.columns for name, array in column.shapes(rows.stop - rows.start).items()}

    def column(self, name: str) -> Column:
        """Return a column by its name. Raises KeyError."""
        return {column.name: column for column in self.columns}[name]


def build_rows(
    folder: Path,
    plan: RowManifest,
    rows_of: RowsOf,
    *,
    kept: Callable[[int], object],
    others: Mapping[str, Callable[[Path], None]] = MappingProxyType({}),
) -> RowManifest:
    """Write every segment of `plan` that is not there yet, and the manifest; return it (see `build_files`).

    Holds one range of rows in memory. Raises StoreError also when a value is not finite.
    """

    def write(path: Path, checkpoint: StoredCheckpoint, rows: RowRange) -> None:
        arrays = collect(plan, rows, rows_of(checkpoint, rows), checkpoint.name)
        write_arrays(path, plan.shapes(rows), lambda name: [arrays[name]], facts=plan.segment_facts(checkpoint, rows))

    def check(path: Path, rows: RowRange) -> None:
        open_segment_arrays(path, plan.shapes(rows))

    return build_files(folder, plan, write, check, others=others, kept=kept)


class RowStore:
    """Such a store, opened. Files are memory-mapped when they are first asked for. Read-only; knows no models."""

    def __init__(self, folder: Path, manifest: RowManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._opened: dict[str, tuple[Mapped, dict[str, Tensor]]] = {}

    @classmethod
    def open(cls, folder: Path) -> RowStore:
        """Open a finished store. Raises StoreError when it is missing, unfinished, newer, damaged or incomplete.

        Every file's size is compared with the manifest; checksums are read by `verify` only.
        """
        manifest = read_contents(folder, RowManifest)
        check_sizes(folder, manifest)
        return cls(folder, manifest)

    @classmethod
    def held(cls, folder: Path) -> RowStore:
        """Open it and map every file: a writer that replaces them then changes nothing for this reader."""
        store = cls.open(folder)
        for rows, checkpoint in store.manifest.segments():
            store.arrays(checkpoint, rows)
        return store

    @property
    def bytes(self) -> int:
        """Return the size of all files."""
        return self.manifest.bytes

    def read(
        self, checkpoint: StoredCheckpoint, column: str, rows: Int64[np.ndarray, "r"] | None = None
    ) -> Float32[Tensor, "r *shape"]:
        """Return some rows of a column in the order asked, or all; nothing else is read from the disk.

        Raises StoreError for a row that is not there.
        """
        picked = Picked(self.manifest.column(column))
        count = self.manifest.rows
        values = torch.empty((count if rows is None else len(rows), *picked.shape))
        if rows is None:
            for start, block in self.blocks(checkpoint, column):
                values[start : start + len(block)] = block
            return values
        for row in rows[(rows < 0) | (rows >= count)]:
            raise StoreError(f"{self.folder}: there is no row {row + 1:,}: the index has {count:,} rows.")
        ranges = np.searchsorted([part.stop for part in self.manifest.ranges], rows, side="right")
        for number in np.unique(ranges):
            part = self.manifest.ranges[number]
            where = np.flatnonzero(ranges == number)
            local = torch.from_numpy(rows[where] - part.start)
            values[torch.from_numpy(where)] = picked.decode(self.arrays(checkpoint, part), local)
        return values

    def blocks(
        self, checkpoint: StoredCheckpoint, column: str, at: slice | Int64[np.ndarray, "k"] | None = None
    ) -> Iterator[tuple[int, Float32[Tensor, "n *shape"]]]:
        """Go through all rows of a column in order: the first row of a block, and the block, about 4 MB of it.

        `at` picks numbers of a column of one axis. A block is the caller's own: it may be written to.
        """
        picked = Picked(self.manifest.column(column), at)
        step = max(1, _BLOCK // max(1, 4 * math.prod(picked.shape)))
        for rows in self.manifest.ranges:
            arrays = self.arrays(checkpoint, rows)
            for start in range(0, rows.stop - rows.start, step):
                yield rows.start + start, picked.decode(arrays, slice(start, start + step))

    def verify(self) -> None:
        """Read every byte. Raises StoreError naming all files whose checksum or header is wrong."""
        verify_files(self.folder, self.manifest)

    def arrays(self, checkpoint: StoredCheckpoint, rows: RowRange) -> dict[str, Tensor]:
        """Return a segment's arrays as they are stored, memory-mapped (see `RowManifest.shapes`)."""
        name = self.manifest.segment_path(checkpoint, rows)
        if name not in self._opened:
            arrays = open_segment_arrays(self.folder / name, self.manifest.shapes(rows))
            self._opened[name] = Mapped.of(self.folder / name), arrays
        mapped, arrays = self._opened[name]
        mapped.check()
        return arrays


def open_segment_arrays(path: Path, shapes: Shapes) -> dict[str, Tensor]:
    """Open a segment memory-mapped, and check that it holds arrays of these shapes."""

    def hold(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {name: (array.numpy().dtype, tuple(array.shape)) for name, array in arrays.items()}
        if found != shapes:
            raise ValueError("its arrays are not those of the manifest")
        return arrays

    return open_arrays(path, hold)[1]


def collect(
    plan: RowManifest, rows: RowRange, batches: Iterable[tuple[Tensor, Mapping[str, Tensor]]], where: str
) -> dict[str, NDArray[Any]]:
    """Put the batches of a range into its order, encoded. Raises StoreError unless each row is given exactly once."""
    arrays = {name: np.empty(shape, dtype) for name, (dtype, shape) in plan.shapes(rows).items()}
    given = np.zeros(rows.stop - rows.start, dtype=np.int64)
    for numbers, values in batches:
        local = numbers.cpu().numpy() - rows.start
        for row in local[(local < 0) | (local >= len(given))]:
            raise StoreError(f"{where}: row {rows.start + row + 1:,} is not of the range that was asked for. {_BUG}")
        given += np.bincount(local, minlength=len(given))
        _check_values(plan.columns, numbers, values, where)
        for column in plan.columns:
            for name, encoded in column.encode(values[column.name].detach().float().cpu()).items():
                arrays[name][local] = encoded
    for row in np.flatnonzero(given != 1):
        raise StoreError(f"{where}: row {rows.start + row + 1:,} was given {given[row]} times, not once. {_BUG}")
    return arrays


def _check_values(columns: Sequence[Column], numbers: Tensor, values: Mapping[str, Tensor], where: str) -> None:
    """Refuse other columns or shapes than planned, and numbers that are none."""
    planned = {column.name: (len(numbers), *column.shape) for column in columns}
    found = {name: tuple(value.shape) for name, value in values.items()}
    if found != planned:
        raise StoreError(f"{where}: arrays of {found} were given, not of {planned}. {_BUG}")
    for column in columns:
        value = values[column.name].float().reshape(len(numbers), math.prod(column.shape))
        whole = (value.abs() < column.limit).all(dim=1)
        for row in numbers[~whole.to(numbers.device)]:
            raise StoreError(
                f"{where}, row {int(row) + 1:,}: its {column.name} are not finite numbers. "
                "Mend or remove the row, or leave this checkpoint out."
            )
