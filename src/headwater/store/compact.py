"""Compaction: full ranges again, no dead rows, in the order of the corpus. Postings are copied; no model is needed.

The new files are written into a folder of their own, and a manifest that names them there takes the place of the old
one; then they get the names that a fresh build gives them (links, no copies), and the manifest names those. So the
files are those of a fresh build, whoever reads meanwhile reads one state or another, each whole, and a process killed
at any moment leaves one of them; the next writer finishes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Int64

from headwater.files import link_file
from headwater.store.build import entry_of
from headwater.store.check import check_sizes
from headwater.store.grow import COMPACTED, other_names, sweep
from headwater.store.living import read_living
from headwater.store.manifest import FileEntry, Kind, Manifest, RowRange, StoredCheckpoint, write_manifest
from headwater.store.postings import Block
from headwater.store.segment import open_segment, write_segment

_PIECE = 1 << 15  # postings copied at a time


def compact_store(folder: Path, current: Manifest, ranges: Sequence[RowRange]) -> Manifest:
    """Rewrite the store that `current` describes into `ranges` of the rows of its corpus; return its manifest.

    The caller holds the writer lock. Needs as much free disk space as what changes takes. Raises StoreError when a
    file is missing or damaged.
    """
    current = settle(folder, current)
    if not current.living and current.ranges == tuple(ranges):
        return current
    check_sizes(folder, current)
    staged = replace(current, ranges=tuple(ranges), living="", place=COMPACTED, files={})
    try:
        staged = staged.with_files(_staged_files(folder, current, staged))
    except BaseException:
        shutil.rmtree(folder / COMPACTED, ignore_errors=True)  # of a full disk what was written so far is a part
        raise
    write_manifest(folder, staged)
    return settle(folder, staged)


def _staged_files(folder: Path, current: Manifest, staged: Manifest) -> dict[str, FileEntry]:
    """Write every new file into its place beside the old ones."""
    living = read_living(folder, current)
    files = {}
    for rows, checkpoint in staged.segments():
        files[staged.segment_path(checkpoint, rows)] = _write_range(folder, current, staged, checkpoint, rows, living)
    for name in other_names(current):
        there = f"{COMPACTED}/{PurePosixPath(name).name}"
        link_file(folder / name, folder / there)
        files[there] = current.files[name]
    return files


def settle(folder: Path, current: Kind) -> Kind:
    """Finish what a killed writer began, and delete what it left; return the manifest that then holds."""
    if not current.place:
        sweep(folder, current)
        return current
    final = replace(
        current, place="", files={name.removeprefix(f"{current.place}/"): each for name, each in current.files.items()}
    )
    for name in final.files:
        link_file(folder / current.place / name, folder / name)
    write_manifest(folder, final)
    sweep(folder, final, checkpoints=True)
    return final


def _write_range(
    folder: Path,
    current: Manifest,
    staged: Manifest,
    checkpoint: StoredCheckpoint,
    rows: RowRange,
    living: Int64[np.ndarray, "rows"],
) -> FileEntry:
    """Write one new segment, or link the old one where it is the same."""
    path = folder / staged.segment_path(checkpoint, rows)
    same = np.array_equal(living[rows.start : rows.stop], np.arange(rows.start, rows.stop))
    if same and rows in current.ranges:
        name = current.segment_path(checkpoint, rows)
        link_file(folder / name, path)
        return current.files[name]
    blocks = _blocks(folder, current, checkpoint, rows, living)
    write_segment(path, blocks, first_row=rows.start, facts=staged.segment_facts(checkpoint, rows))
    return entry_of(path)


def _blocks(
    folder: Path, current: Manifest, checkpoint: StoredCheckpoint, rows: RowRange, living: Int64[np.ndarray, "rows"]
) -> Iterator[Block]:
    """Take the postings of a new range out of the old segments, their rows numbered in the corpus."""
    wanted = living[rows.start : rows.stop]
    for old in current.ranges:
        mine = np.flatnonzero((wanted >= old.start) & (wanted < old.stop))
        if len(mine) == 0:
            continue
        postings = open_segment(folder / current.segment_path(checkpoint, old))
        number = np.full(old.stop - old.start, -1)
        number[wanted[mine] - old.start] = mine + rows.start
        row_of = number[postings.rows]
        found, tokens = np.flatnonzero(row_of >= 0), postings.token_of()
        for start in range(0, max(len(found), 1), _PIECE):  # rows without any posting give an empty block
            at = found[start : start + _PIECE]
            yield Block(
                rows=row_of[at],
                tokens=tokens[at],
                norms=postings.norms[at],
                ranks=postings.ranks[at],
                payload=postings.payload[torch.from_numpy(at)],
                exponents=None if postings.exponents is None else postings.exponents[at],
            )
