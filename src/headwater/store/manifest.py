"""The manifest: what an index is of, how it was built, and the size and checksum of each of its files.

It is written last. A folder without one is an unfinished index, and building again resumes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from headwater.errors import HeadwaterError, StoreError
from headwater.files import canonical_json, digest, read_json, write_json
from headwater.store.postings import Dtype
from headwater.store.segment import FORMAT

NAME = "manifest.json"
RANGE_ROWS = 4096
"""Rows of one segment. Fixed, so that resuming, appending and distributing all mean: write one more file."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class RowRange:
    """Rows start..stop-1 and a digest of what they held when they were indexed."""

    start: int
    stop: int
    digest: str


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint as the index knows it; `weight` multiplies its dot products."""

    name: str
    fingerprint: str
    weight: float
    step: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class FileEntry:
    """Size and XXH3-128 of one file."""

    bytes: int
    xxh3: str


@dataclass(frozen=True)
class Manifest:
    """See the module's docstring. `files` maps paths inside the folder to their entries; empty while unfinished."""

    method: str
    model: str
    tokenizer: str
    task: Mapping[str, Any]
    dtype: Dtype
    max_words: int | None
    special_tokens: tuple[int, ...]
    ranges: tuple[RowRange, ...]
    checkpoints: tuple[StoredCheckpoint, ...]
    built_with: Mapping[str, str]
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def rows(self) -> int:
        """Return the number of training rows."""
        return self.ranges[-1].stop

    def segment_path(self, checkpoint: StoredCheckpoint, rows: RowRange) -> str:
        """Return where the segment of this range and checkpoint lies, relative to the index folder."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", checkpoint.name).lstrip("._-") or "checkpoint"
        return f"segments/{name}-{checkpoint.fingerprint[:8]}/{rows.start:09d}-{rows.stop:09d}.safetensors"

    def segment_facts(self, checkpoint: StoredCheckpoint, rows: RowRange) -> dict[str, Any]:
        """Return what a segment's header says of itself; equal facts mean that the file need not be built again.

        Weights are left out: they multiply at search time and change no byte of a segment.
        """
        return {
            "method": self.method,
            "model": checkpoint.fingerprint,
            "tokenizer": self.tokenizer,
            "task": dict(self.task),
            "dtype": self.dtype,
            "max_words": self.max_words,
            "special_tokens": list(self.special_tokens),
            "start": rows.start,
            "stop": rows.stop,
            "rows": rows.digest,
            "built_with": dict(self.built_with),
        }

    def with_files(self, files: Mapping[str, FileEntry]) -> Manifest:
        """Return the finished manifest."""
        return replace(self, files=dict(files))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it atomically, with a checksum of itself."""
    values = asdict(manifest)
    write_json(folder / NAME, {**values, _SUM: digest([canonical_json(values)])})


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest. Raises StoreError: no index, unfinished, newer format, damaged."""
    path = folder / NAME
    if not path.exists():
        if (folder / "segments").exists():
            raise StoreError(f"{folder}: this index is unfinished. Run `headwater index` again: it resumes.")
        raise StoreError(f"{folder}: no index here (no {NAME}). Build one with `headwater index RUN`.")
    try:
        raw = read_json(path)
        version = raw["format"]
    except (HeadwaterError, KeyError, TypeError, OSError, RecursionError) as error:
        raise StoreError(f"{path}: damaged manifest ({error}). {_AGAIN}") from None
    if version != FORMAT:
        raise StoreError(
            f"{path}: index format {version}, but this Headwater reads format {FORMAT}. "
            "Upgrade Headwater (pip install -U headwater), or build the index again."
        )
    try:
        if raw.pop(_SUM) != digest([canonical_json(raw)]):
            raise ValueError("its checksum is wrong")
        manifest = _parse(raw)
        _check_kinds(manifest)
        _check(path, manifest)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}: damaged manifest ({error!r}). {_AGAIN}") from None
    return manifest


_SUM = "xxh3"
_AGAIN = "Delete this file and run `headwater index` again: segments that are whole are kept."


def _parse(raw: dict[str, Any]) -> Manifest:
    parts = dict(raw)
    parts["ranges"] = tuple(RowRange(**entry) for entry in raw["ranges"])
    parts["checkpoints"] = tuple(StoredCheckpoint(**entry) for entry in raw["checkpoints"])
    parts["special_tokens"] = tuple(int(token) for token in raw["special_tokens"])
    parts["files"] = {str(name): FileEntry(**entry) for name, entry in raw["files"].items()}
    return Manifest(**parts)


def _check_kinds(manifest: Manifest) -> None:
    """Raise ValueError for a field that is not of its kind, before anything relies on it."""
    texts = [manifest.method, manifest.model, manifest.tokenizer]
    texts += [rows.digest for rows in manifest.ranges]
    texts += [text for checkpoint in manifest.checkpoints for text in (checkpoint.name, checkpoint.fingerprint)]
    texts += [entry.xxh3 for entry in manifest.files.values()]
    numbers = [number for rows in manifest.ranges for number in (rows.start, rows.stop)]
    numbers += [entry.bytes for entry in manifest.files.values()]
    numbers += [] if manifest.max_words is None else [manifest.max_words]
    rates = [checkpoint.weight for checkpoint in manifest.checkpoints]
    rates += [c.learning_rate for c in manifest.checkpoints if c.learning_rate is not None]
    if not (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int for number in numbers)
        and all(type(rate) in (int, float) and math.isfinite(rate) for rate in rates)
        and isinstance(manifest.task, dict)
        and isinstance(manifest.built_with, dict)
        and manifest.dtype in get_args(Dtype)
    ):
        raise ValueError("a field is not of its kind")


def _check(path: Path, manifest: Manifest) -> None:
    """Refuse a manifest that would lead out of the folder, or whose ranges leave gaps."""
    for name in manifest.files:
        if not _SAFE.fullmatch(name):
            raise StoreError(f"{path}: the file name {name!r} leads out of the index: damaged or forged.")
    expected = 0
    for rows in manifest.ranges:
        if not expected == rows.start < rows.stop:
            raise StoreError(f"{path}: row ranges are not in order: damaged manifest. {_AGAIN}")
        expected = rows.stop
    if not manifest.ranges or not manifest.checkpoints:
        raise StoreError(f"{path}: no rows or no checkpoints: damaged manifest. {_AGAIN}")
    for checkpoint in manifest.checkpoints:
        for rows in manifest.ranges:
            if manifest.segment_path(checkpoint, rows) not in manifest.files:
                raise StoreError(f"{path}: lacks a segment of {checkpoint.name}: damaged manifest. {_AGAIN}")
