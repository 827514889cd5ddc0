"""Carrying rows over: a store of arrays a row follows its corpus, and keeps what it holds of the rows that stayed.

What is stored of a row depends on its content alone. So a row of a known content is copied, wherever it stands now, a
file of rows that all stayed where they were is linked, and only the other rows are computed. The new files are written
into a folder of their own; then a manifest that names them takes the place of the old one (see `store.compact`). A
process killed at any moment leaves the old store or the new one, and the next writer uses the files it finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from headwater.errors import StoreError
from headwater.files import link_file, remove_leftovers
from headwater.store.arrays import REBUILD, open_arrays, read_facts, unlike, write_arrays
from headwater.store.build import check_models, check_same, entry_of
from headwater.store.check import check_sizes
from headwater.store.compact import settle
from headwater.store.grow import COMPACTED
from headwater.store.lock import writer_lock
from headwater.store.manifest import NAME as MANIFEST
from headwater.store.manifest import FileEntry, RowRange, StoredCheckpoint, read_contents, write_manifest
from headwater.store.rows import RowManifest, RowsOf, RowStore, build_rows, collect, open_segment_arrays

CONTENTS = "contents.safetensors"
_DIGEST = 16  # bytes

RowsOfNew = Callable[[Int64[np.ndarray, "n"]], RowsOf]
"""Given the rows of the corpus that are new, in order: what gives their columns, the first of them numbered 0."""


def build_or_carry(
    folder: Path,
    plan: RowManifest,
    contents: Sequence[str],
    rows_of_new: RowsOfNew,
    *,
    follows: bool,
    kept: Callable[[int], object],
) -> RowManifest:
    """Write what is missing of a store of rows with these contents (their digests); return its manifest.

    A finished store of other rows is carried over if it `follows` its corpus, and refused otherwise (see `build_files`,
    also for `kept`). Raises StoreError when the store is of another model, tokenizer, task or other options.
    """
    if follows and (folder / MANIFEST).exists():
        current = read_contents(folder, RowManifest)
        if current.place or current.ranges != plan.ranges:
            with writer_lock(folder):
                return _carried_over(folder, plan, contents, rows_of_new, kept)
    everything = rows_of_new(np.arange(plan.rows))
    return build_rows(folder, plan, everything, kept=kept, others={CONTENTS: partial(write_contents, contents)})


def write_contents(contents: Sequence[str], path: Path) -> None:
    """Write down the digest of every row's content; atomic."""
    table = np.frombuffer(bytes.fromhex("".join(contents)), dtype=np.uint8).reshape(len(contents), _DIGEST)
    write_arrays(path, {"contents": (table.dtype, table.shape)}, lambda _: [table], facts={"kind": "contents"})


def read_stored_contents(folder: Path, manifest: RowManifest) -> list[str]:
    """Return the digest of every stored row's content. Raises StoreError where they are missing or damaged."""
    if CONTENTS not in manifest.files:
        raise StoreError(f"{folder}: does not say of which rows it is, and cannot follow its corpus. {REBUILD}")

    def hold(arrays: dict[str, Tensor]) -> list[str]:
        table = arrays["contents"].numpy()
        if table.dtype != np.uint8 or table.shape != (manifest.rows, _DIGEST):
            raise ValueError("it is not a digest a row")
        return [row.tobytes().hex() for row in table]

    return open_arrays(folder / CONTENTS, hold)[1]


def _carried_over(
    folder: Path, plan: RowManifest, contents: Sequence[str], rows_of_new: RowsOfNew, kept: Callable[[int], object]
) -> RowManifest:
    """Write the new files beside the old ones, and let them take their place. The caller holds the writer lock."""
    current = read_contents(folder, RowManifest)
    if current.place:
        current = settle(folder, current)
    check_sizes(folder, current)
    _check_alike(folder, current, plan)
    known = {content: row for row, content in enumerate(read_stored_contents(folder, current))}
    stored = np.array([known.get(content, -1) for content in contents], dtype=np.int64)
    staged = replace(plan, place=COMPACTED, files={})
    carrying = _Carrying(folder, current, staged, stored, rows_of_new)
    files: dict[str, FileEntry] = {}
    try:
        for rows, checkpoint in staged.segments():
            name = staged.segment_path(checkpoint, rows)
            if carrying.keep(name, checkpoint, rows):
                kept(rows.stop - rows.start)
            else:
                carrying.write(name, checkpoint, rows, kept)
            files[name] = entry_of(folder / name)
        write_contents(contents, folder / COMPACTED / CONTENTS)
    except OSError:
        shutil.rmtree(folder / COMPACTED, ignore_errors=True)  # of a full disk what was written so far is a part
        raise
    files[f"{COMPACTED}/{CONTENTS}"] = entry_of(folder / COMPACTED / CONTENTS)
    staged = staged.with_files(files)
    write_manifest(folder, staged)
    return settle(folder, staged)


class _Carrying:
    """Writes the segments of a store out of an older one and of what is computed."""

    def __init__(
        self,
        folder: Path,
        current: RowManifest,
        staged: RowManifest,
        stored: Int64[np.ndarray, "rows"],
        rows_of_new: RowsOfNew,
    ) -> None:
        self.folder, self.current, self.staged, self.stored = folder, current, staged, stored
        self.old = RowStore(folder, current)
        self.named = {checkpoint.fingerprint: checkpoint for checkpoint in current.checkpoints}
        self.new = np.flatnonzero(stored < 0)
        self.rows_of_new = rows_of_new
        self.compute: RowsOf | None = rows_of_new(self.new) if len(self.new) else None

    def keep(self, name: str, checkpoint: StoredCheckpoint, rows: RowRange) -> bool:
        """Keep what a killed writer finished, or what the old store holds for just these rows."""
        path = self.folder / name
        remove_leftovers(path.parent)
        if path.exists():
            if self._is_whole(path, checkpoint, rows):
                return True
            path.unlink()
        there = self.named.get(checkpoint.fingerprint)
        if there is None or rows not in self.current.ranges:
            return False
        link_file(self.folder / self.current.segment_path(there, rows), path)
        return True

    def write(self, name: str, checkpoint: StoredCheckpoint, rows: RowRange, kept: Callable[[int], object]) -> None:
        """Write a segment: copy the rows that are stored, compute the others."""
        there = self.named.get(checkpoint.fingerprint)
        if there is None:  # a checkpoint that was not indexed yet
            arrays = collect(self.staged, rows, self._everything(checkpoint, rows), checkpoint.name)
        else:
            arrays = self._copied(there, rows, kept)
            self._compute(checkpoint, rows, arrays)
        shapes, facts = self.staged.shapes(rows), self.staged.segment_facts(checkpoint, rows)
        write_arrays(self.folder / name, shapes, lambda array: [arrays[array]], facts=facts)

    def _everything(self, checkpoint: StoredCheckpoint, rows: RowRange) -> Any:
        numbers = np.arange(rows.start, rows.stop)
        for local, values in self.rows_of_new(numbers)(checkpoint, RowRange(0, len(numbers), rows.digest)):
            yield local + rows.start, values

    def _copied(
        self, there: StoredCheckpoint, rows: RowRange, kept: Callable[[int], object]
    ) -> dict[str, NDArray[Any]]:
        arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in self.staged.shapes(rows).items()}
        wanted = self.stored[rows.start : rows.stop]
        for part in self.current.ranges:
            mine = np.flatnonzero((wanted >= part.start) & (wanted < part.stop))
            if len(mine):
                from_part = self.old.arrays(there, part)
                at = torch.from_numpy(wanted[mine] - part.start)
                for name, array in arrays.items():
                    array[mine] = from_part[name][at].numpy()
                kept(len(mine))
        return arrays

    def _compute(self, checkpoint: StoredCheckpoint, rows: RowRange, arrays: dict[str, NDArray[Any]]) -> None:
        first, last = np.searchsorted(self.new, [rows.start, rows.stop])
        if first == last or self.compute is None:
            return
        fresh = RowRange(int(first), int(last), rows.digest)
        found = collect(self.staged, fresh, self.compute(checkpoint, fresh), checkpoint.name)
        for name, array in arrays.items():
            array[self.new[first:last] - rows.start] = found[name]

    def _is_whole(self, path: Path, checkpoint: StoredCheckpoint, rows: RowRange) -> bool:
        try:
            open_segment_arrays(path, self.staged.shapes(rows))
            return not unlike(read_facts(path), self.staged.segment_facts(checkpoint, rows))
        except StoreError:
            return False


def _check_alike(folder: Path, current: RowManifest, plan: RowManifest) -> None:
    """Raise StoreError unless what is stored is what `plan` would store of the same rows."""
    check_models(folder, plan)
    first = current.ranges[0]
    planned = {checkpoint.fingerprint for checkpoint in plan.checkpoints}
    for checkpoint in current.checkpoints:
        if checkpoint.fingerprint in planned:
            check_same(folder / current.segment_path(checkpoint, first), plan.segment_facts(checkpoint, first))
