"""Building a store: write the segments that are missing, then the manifest.

A process killed at any moment leaves whole files or nothing; building again keeps what is whole and gives the same
bytes as a build that was never killed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from headwater.errors import StoreError
from headwater.files import file_digest, remove_leftovers
from headwater.gradients.tokens import TokenGradients
from headwater.store.lock import writer_lock
from headwater.store.manifest import FileEntry, Manifest, RowRange, StoredCheckpoint, write_manifest
from headwater.store.postings import encode_block
from headwater.store.segment import open_segment, read_facts, write_segment

GradientsOf = Callable[[StoredCheckpoint, RowRange], Iterable[TokenGradients]]
"""Give the token gradients of a range of rows at a checkpoint, whole rows at a time, rows numbered in the corpus."""


def build_store(
    folder: Path,
    plan: Manifest,
    gradients_of: GradientsOf,
    *,
    others: Iterable[str] = (),
    kept: Callable[[int], object],
) -> Manifest:
    """Write every segment of `plan` that is not there yet, and the manifest; return it.

    `others` are files already in `folder` to be checksummed with the rest; `kept` is told the number of rows of each
    segment that was found whole. Raises StoreError when a segment that is there is of something else (another model,
    tokenizer, corpus or option), or when another process is writing.
    """
    with writer_lock(folder):
        files: dict[str, FileEntry] = {}
        for rows in plan.ranges:
            for checkpoint in plan.checkpoints:
                name = plan.segment_path(checkpoint, rows)
                path = folder / name
                remove_leftovers(path.parent)
                if path.exists():
                    _check_same(path, plan.segment_facts(checkpoint, rows))
                    kept(rows.stop - rows.start)
                else:
                    _write(path, plan, checkpoint, rows, gradients_of)
                files[name] = _entry(path)
        for name in others:
            files[name] = _entry(folder / name)
        manifest = plan.with_files(files)
        write_manifest(folder, manifest)
    return manifest


def built_with() -> dict[str, str]:
    """Say on what bytes may depend: the torch build and the kind of CPU (measured to be equal on equal ones)."""
    return {
        "torch": torch.__version__,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def _write(path: Path, plan: Manifest, checkpoint: StoredCheckpoint, rows: RowRange, gradients_of: GradientsOf) -> None:
    blocks = [
        encode_block(gradients, dtype=plan.dtype, special=plan.special_tokens, max_words=plan.max_words)
        for gradients in gradients_of(checkpoint, rows)
    ]
    write_segment(path, blocks, first_row=rows.start, facts=plan.segment_facts(checkpoint, rows))


def _entry(path: Path) -> FileEntry:
    return FileEntry(path.stat().st_size, file_digest(path))


_OF = {
    "model": "another model: the checkpoint's weights differ",
    "tokenizer": "another tokenizer",
    "rows": "another corpus: its rows have changed",
    "start": "another corpus: its rows have changed",
    "stop": "another corpus: its rows have changed",
    "task": "another task or max_length",
    "built_with": "another torch build or CPU, whose bytes may differ",
}


def _check_same(path: Path, expected: dict[str, object]) -> None:
    """Refuse to mix: a segment that is there must be exactly what this build would write."""
    facts = read_facts(path)
    for name, value in expected.items():
        if facts.get(name) != value:
            what = _OF.get(name, f"other options ({name}={facts.get(name)!r}, not {value!r})")
            raise StoreError(f"{path}: this segment is of {what}. Build into another folder with --out, or delete it.")
    open_segment(path)
