"""Building a store: write the segments that are missing, then the manifest.

A process killed at any moment leaves whole files or nothing; building again keeps what is whole and gives the same
bytes as a build that was never killed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from headwater.errors import StoreError
from headwater.files import file_digest, remove_leftovers
from headwater.gradients.tokens import TokenGradients
from headwater.store.arrays import REBUILD, read_facts, unlike
from headwater.store.lock import writer_lock
from headwater.store.manifest import (
    Contents,
    FileEntry,
    Kind,
    Manifest,
    RowRange,
    StoredCheckpoint,
    read_contents,
    write_manifest,
)
from headwater.store.postings import encode_block
from headwater.store.segment import open_segment, write_segment

GradientsOf = Callable[[StoredCheckpoint, RowRange], Iterable[TokenGradients]]
"""Give the token gradients of a range of rows at a checkpoint, whole rows at a time, rows numbered in the corpus."""

Writer = Callable[[Path, StoredCheckpoint, RowRange], None]
Checker = Callable[[Path, RowRange], object]

Engine = Callable[[Contents, Mapping[str, FileEntry]], Iterable[tuple[str, FileEntry]]]
"""Finish every segment of a plan, wherever the work is done, and give the name and the entry of each; of files that an
earlier build wrote down it is told what that said."""


def build_store(
    folder: Path,
    plan: Manifest,
    gradients_of: GradientsOf,
    *,
    others: Mapping[str, Callable[[Path], None]],
    kept: Callable[[int], object],
) -> Manifest:
    """Write every segment of token gradients of `plan` that is not there yet, and the manifest (see `build_files`)."""

    write = segment_writer(plan, gradients_of)
    return build_files(folder, plan, write, lambda path, _: open_segment(path), others=others, kept=kept)


def segment_writer(plan: Manifest, gradients_of: GradientsOf) -> Writer:
    """Return what writes one segment of token gradients of `plan`, whole or not at all."""

    def write(path: Path, checkpoint: StoredCheckpoint, rows: RowRange) -> None:
        blocks = (
            encode_block(gradients, dtype=plan.dtype, special=plan.special_tokens, max_words=plan.max_words)
            for gradients in gradients_of(checkpoint, rows)
        )
        facts = plan.segment_facts(checkpoint, rows)
        write_segment(path, blocks, first_row=rows.start, facts=facts, energy=plan.energy)

    return write


def build_files(
    folder: Path,
    plan: Kind,
    write: Writer,
    check: Checker,
    *,
    others: Mapping[str, Callable[[Path], None]],
    kept: Callable[[int], object],
) -> Kind:
    """Write every segment of `plan` that is not there yet, and the manifest; return it.

    `write` writes one segment, whole or not at all; `check` raises StoreError when one that is there is damaged.
    `others` are further files of the index, each with what writes it, unless the same is there; `kept` is told the
    number of rows of each segment that was found whole. Raises StoreError when a segment that is there is of
    something else (another model, tokenizer, corpus or option) or damaged, or when another process is writing.
    """

    def in_turn(plan: Contents, known: Mapping[str, FileEntry]) -> Iterator[tuple[str, FileEntry]]:
        for rows, checkpoint in plan.segments():
            name = plan.segment_path(checkpoint, rows)
            remove_leftovers((folder / name).parent)
            entry, was_there = finish_segment(folder, plan, checkpoint, rows, write, check, known.get(name))
            if was_there:
                kept(rows.stop - rows.start)
            yield name, entry

    return build_with(folder, plan, in_turn, others=others)


def build_with(folder: Path, plan: Kind, engine: Engine, *, others: Mapping[str, Callable[[Path], None]]) -> Kind:
    """Let `engine` finish every segment of `plan`, and write the manifest; return it (see `build_files`)."""
    with writer_lock(folder):
        remove_leftovers(folder)
        check_models(folder, plan)
        known = _known_files(folder, type(plan))
        files: dict[str, FileEntry] = {}
        for name, write_other in others.items():
            if (folder / name).exists():
                _check_bytes(folder / name, known.get(name))
            write_other(folder / name)
            files[name] = entry_of(folder / name)
        files.update(engine(plan, known))
        manifest = plan.with_files(files)
        write_manifest(folder, manifest)
    return manifest


def finish_segment(
    folder: Path,
    plan: Contents,
    checkpoint: StoredCheckpoint,
    rows: RowRange,
    write: Writer,
    check: Checker,
    known: FileEntry | None,
) -> tuple[FileEntry, bool]:
    """Keep a segment that is there, whole and the same; write it otherwise. Return its entry, and whether it was kept.

    Doing it again, or twice at a time, gives the same file. `known` is what an earlier build wrote down of it.
    """
    path = folder / plan.segment_path(checkpoint, rows)
    if not path.exists():
        write(path, checkpoint, rows)
        return entry_of(path), False
    check_same(path, plan.segment_facts(checkpoint, rows))
    check(path, rows)
    return _check_bytes(path, known), True


def built_with(device: str = "cpu") -> dict[str, str]:
    """Say on what bytes may depend: the torch build, and the kind of CPU (equal on equal ones) or GPU."""
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else ""
    return {"torch": torch.__version__, "device": gpu or cpu}


def entry_of(path: Path) -> FileEntry:
    """Return the size and the checksum of a file."""
    return FileEntry(path.stat().st_size, file_digest(path))


def _known_files(folder: Path, kind: type[Contents]) -> Mapping[str, FileEntry]:
    """Return what an earlier build wrote down of its files; nothing where there was none that can be read.

    Raises StoreError where the store has grown since: a plain build would forget the rows that were added.
    """
    try:
        known = read_contents(folder, kind)
    except StoreError:
        return {}
    if known.living or known.place:
        raise StoreError(f"{folder}: this index has grown. Give the corpus that it is to have, or use another folder.")
    return known.files


def _check_bytes(path: Path, known: FileEntry | None) -> FileEntry:
    """Refuse to bless damage: a file that an earlier build wrote down must still be what it was."""
    entry = entry_of(path)
    if known not in (None, entry):
        raise StoreError(f"{path}: its bytes have changed since it was written. {REBUILD}")
    return entry


def check_models(folder: Path, plan: Contents) -> None:
    """Refuse to build beside segments of a checkpoint of the same name but other weights."""
    ours = {(folder / plan.segment_path(checkpoint, plan.ranges[0])).parent for checkpoint in plan.checkpoints}
    names = {_without_fingerprint(place) for place in ours}
    for there in (folder / "segments").glob("*"):
        if there not in ours and _without_fingerprint(there) in names and any(there.glob("*.safetensors")):
            raise StoreError(
                f"{there}: these segments are of {_OF['model']}. Build into another folder with --out, or delete them."
            )


def _without_fingerprint(place: Path) -> str:
    return place.name.rpartition("-")[0]


_OF = {
    "model": "another model: the checkpoint's weights differ",
    "tokenizer": "another tokenizer",
    "rows": "another corpus: its rows have changed",
    "start": "another corpus: its rows have changed",
    "stop": "another corpus: its rows have changed",
    "task": "another task or max_length",
    "built_with": "another torch build or device, whose bytes may differ",
}


def check_same(path: Path, expected: Mapping[str, Any]) -> None:
    """Refuse to mix: a segment that is there must be exactly what this build would write."""
    facts = read_facts(path)
    for name in unlike(facts, expected):
        what = _OF.get(name) or f"other options ({_difference(name, facts.get(name), expected.get(name))})"
        raise StoreError(f"{path}: this segment is of {what}. Build into another folder with --out, or delete it.")


def _difference(name: str, there: object, ours: object) -> str:
    """Name the innermost value that differs."""
    if isinstance(there, dict) and isinstance(ours, dict):
        inner = min(key for key in {*there, *ours} if there.get(key) != ours.get(key))
        return _difference(f"{name}.{inner}", there.get(inner), ours.get(inner))
    return f"{name}={_short(there)}, not {_short(ours)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."
