"""The manifest: what a store is of, how it was built, and the size and checksum of each of its files.

It is written last. A folder without one is an unfinished index, and building again resumes it.
`Contents` is what the manifests of all kinds of stores say; `Manifest` is that of token gradients.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from headwater.errors import HeadwaterError, StoreError
from headwater.files import canonical_json, digest, read_json, write_json
from headwater.store.arrays import FORMAT
from headwater.store.postings import PostingDtype

NAME = "manifest.json"
RANGE_ROWS = 4096
"""Rows of one segment. Fixed, so that resuming, appending and distributing all mean: write one more file."""

LATER: Mapping[str, bool] = {"later": True}
"""Metadata of a field that older manifests do not have: it is left out while it has its default."""

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


@dataclass(frozen=True, kw_only=True)
class Contents(ABC):
    """What every kind of store is of. `files` maps paths inside its folder to their entries; empty while unfinished.

    Of a store that grew, `living` names the file that says which stored row each row of the corpus is (see
    `store.living`); without it they are the same. `place` is the folder, inside the store's, that its segments lie in.
    """

    model: str
    tokenizer: str
    task: Mapping[str, Any]
    ranges: tuple[RowRange, ...]
    checkpoints: tuple[StoredCheckpoint, ...]
    built_with: Mapping[str, str]
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    format: int = FORMAT
    living: str = field(default="", metadata=LATER)
    place: str = field(default="", metadata=LATER)

    @classmethod
    @abstractmethod
    def of_json(cls, fields: dict[str, Any]) -> Self:
        """Make a manifest of what `read_contents` read, the fields above made already.

        Raises KeyError, TypeError, ValueError or AttributeError when another field is not of its kind.
        """

    @abstractmethod
    def own_facts(self) -> dict[str, Any]:
        """Return what else the segments of this kind of store depend on, as JSON gives it back."""

    @property
    def rows(self) -> int:
        """Return the number of stored rows; of a store that grew, dead ones are among them."""
        return self.ranges[-1].stop

    @property
    def bytes(self) -> int:
        """Return the size of all files."""
        return sum(entry.bytes for entry in self.files.values())

    def segments(self) -> Iterator[tuple[RowRange, StoredCheckpoint]]:
        """Go through all segments: each range of rows at every checkpoint, then the next range."""
        for rows in self.ranges:
            for checkpoint in self.checkpoints:
                yield rows, checkpoint

    def segment_path(self, checkpoint: StoredCheckpoint, rows: RowRange) -> str:
        """Return where the segment of this range and checkpoint lies, relative to the store's folder."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", checkpoint.name).lstrip("._-") or "checkpoint"
        segment = f"segments/{name}-{checkpoint.fingerprint[:8]}/{rows.start:09d}-{rows.stop:09d}.safetensors"
        return f"{self.place}/{segment}" if self.place else segment

    def segment_facts(self, checkpoint: StoredCheckpoint, rows: RowRange) -> dict[str, Any]:
        """Return what a segment's header says of itself; equal facts mean that the file need not be built again.

        Weights are left out: they multiply at search time and change no byte of a segment.
        """
        return {
            "model": checkpoint.fingerprint,
            "tokenizer": self.tokenizer,
            "task": dict(self.task),
            "start": rows.start,
            "stop": rows.stop,
            "rows": rows.digest,
            **self.own_facts(),
            "built_with": dict(self.built_with),
        }

    def with_files(self, files: Mapping[str, FileEntry]) -> Self:
        """Return the finished manifest."""
        return replace(self, files=dict(files))


@dataclass(frozen=True, kw_only=True)
class Manifest(Contents):
    """What an index of token gradients is of."""

    method: str
    dtype: PostingDtype
    max_words: int | None
    special_tokens: tuple[int, ...]
    energy: float | None = field(default=None, metadata=LATER)
    """The share of all squared norms that each segment keeps, in its strongest postings; None: all of it."""

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> Self:
        """See `Contents.of_json`."""
        manifest = cls(**{**fields, "special_tokens": tuple(int(token) for token in fields["special_tokens"])})
        if not (
            isinstance(manifest.method, str)
            and (manifest.max_words is None or type(manifest.max_words) is int)
            and manifest.dtype in get_args(PostingDtype)
            and (manifest.energy is None or (type(manifest.energy) is float and 0 < manifest.energy < 1))
        ):
            raise ValueError("a field is not of its kind")
        return manifest

    def own_facts(self) -> dict[str, Any]:
        """Return the method and the options of storage."""
        facts = {
            "method": self.method,
            "dtype": self.dtype,
            "max_words": self.max_words,
            "special_tokens": list(self.special_tokens),
        }
        return facts if self.energy is None else {**facts, "energy": self.energy}


Kind = TypeVar("Kind", bound=Contents)


def write_manifest(folder: Path, manifest: Contents) -> None:
    """Write it atomically, with a checksum of itself."""
    values = asdict(manifest)
    for each in fields(manifest):
        if "later" in each.metadata and each.default is not MISSING and getattr(manifest, each.name) == each.default:
            del values[each.name]
    write_json(folder / NAME, {**values, _SUM: digest([canonical_json(values)])})


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest of token gradients (see `read_contents`)."""
    return read_contents(folder, Manifest)


def read_contents(folder: Path, kind: type[Kind]) -> Kind:
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
        manifest = kind.of_json(_fields(raw))
        _check_kinds(manifest)
        _check(path, manifest)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}: damaged manifest ({error!r}). {_AGAIN}") from None
    return manifest


_SUM = "xxh3"
_AGAIN = "Delete this file and run `headwater index` again: segments that are whole are kept."


def _fields(raw: dict[str, Any]) -> dict[str, Any]:
    return {
        **raw,
        "ranges": tuple(RowRange(**entry) for entry in raw["ranges"]),
        "checkpoints": tuple(StoredCheckpoint(**entry) for entry in raw["checkpoints"]),
        "files": {str(name): FileEntry(**entry) for name, entry in raw["files"].items()},
    }


def _check_kinds(manifest: Contents) -> None:
    """Raise ValueError for a field that is not of its kind, before anything relies on it."""
    texts = [manifest.model, manifest.tokenizer, manifest.living, manifest.place]
    texts += [rows.digest for rows in manifest.ranges]
    texts += [text for checkpoint in manifest.checkpoints for text in (checkpoint.name, checkpoint.fingerprint)]
    texts += [entry.xxh3 for entry in manifest.files.values()]
    numbers = [number for rows in manifest.ranges for number in (rows.start, rows.stop)]
    numbers += [entry.bytes for entry in manifest.files.values()]
    rates = [checkpoint.weight for checkpoint in manifest.checkpoints]
    rates += [c.learning_rate for c in manifest.checkpoints if c.learning_rate is not None]
    if not (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int for number in numbers)
        and all(type(rate) in (int, float) and math.isfinite(rate) for rate in rates)
        and isinstance(manifest.task, dict)
        and isinstance(manifest.built_with, dict)
    ):
        raise ValueError("a field is not of its kind")


def _check(path: Path, manifest: Contents) -> None:
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
    for rows, checkpoint in manifest.segments():
        if manifest.segment_path(checkpoint, rows) not in manifest.files:
            raise StoreError(f"{path}: lacks a segment of {checkpoint.name}: damaged manifest. {_AGAIN}")
    if manifest.living and manifest.living not in manifest.files:
        raise StoreError(f"{path}: lacks its list of living rows: damaged manifest. {_AGAIN}")
