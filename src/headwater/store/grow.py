"""Growing a store: more ranges of rows behind those that are there, and a list of the rows that live.

Nothing that the manifest names is touched, so that whoever reads goes on reading; the new manifest takes the place of
the old in one step. A process killed at any moment leaves the old store or the new one. What it left beside them is
used by the next writer, if it is just what that one needs, and deleted if not.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int64

from headwater.errors import StoreError
from headwater.files import remove_leftovers
from headwater.store.arrays import read_facts, unlike
from headwater.store.build import GradientsOf, check_models, check_same, entry_of, segment_writer
from headwater.store.check import check_sizes, lies_inside
from headwater.store.living import write_living
from headwater.store.manifest import Contents, FileEntry, Manifest, RowRange, StoredCheckpoint, write_manifest
from headwater.store.segment import open_segment

COMPACTED = "compacted"
_GROWN = re.compile(r"grown-(\d{6,})")


def grow_store(
    folder: Path,
    current: Manifest,
    plan: Manifest,
    added: Sequence[RowRange],
    living: Int64[np.ndarray, "rows"],
    gradients_of: GradientsOf,
    *,
    others: Mapping[str, Callable[[Path], None]],
    kept: Callable[[int], object],
) -> Manifest:
    """Add ranges of rows to the store that `current` describes, and let those of `living` live; return its manifest.

    `added` follow the ranges that are there; `living` is the stored row of every row of the corpus. `plan` says of
    what the new segments are: it must agree with `current` in all but its ranges. `others` and `kept`: see
    `build_files`. The caller holds the writer lock. Raises StoreError when model, tokenizer, options or checkpoints
    are others than those of the store, or a file of it is missing.
    """
    checkpoints = check_alike(folder, current, plan)
    check_sizes(folder, current)
    place = f"grown-{_times_grown(current) + 1:06d}"
    grown = replace(
        current,
        checkpoints=checkpoints,
        ranges=(*current.ranges, *added),
        living=f"{place}/living.safetensors",
    )
    files = {name: current.files[name] for name in segment_names(current)}
    _drop_unlike(folder, grown, files)
    write = segment_writer(grown, gradients_of)
    for rows in added:
        for checkpoint in grown.checkpoints:
            name = grown.segment_path(checkpoint, rows)
            if (folder / name).exists():
                kept(rows.stop - rows.start)
            else:
                write(folder / name, checkpoint, rows)
            files[name] = entry_of(folder / name)
    made = {name: partial(write_other, folder / place / name) for name, write_other in others.items()}
    made["living.safetensors"] = partial(write_living, folder / grown.living, living)
    for name, write_one in made.items():
        write_one()
        files[f"{place}/{name}"] = entry_of(folder / place / name)
    grown = grown.with_files(files)
    write_manifest(folder, grown)
    sweep(folder, grown)
    return grown


def check_alike(folder: Path, current: Manifest, plan: Manifest) -> tuple[StoredCheckpoint, ...]:
    """Return the checkpoints, with the weights of `plan`. Raises StoreError unless rows of `plan` can be added."""
    check_models(folder, plan)
    weighed = {checkpoint.fingerprint: checkpoint for checkpoint in plan.checkpoints}
    if weighed.keys() != {checkpoint.fingerprint for checkpoint in current.checkpoints}:
        names = ", ".join(checkpoint.name for checkpoint in current.checkpoints)
        raise StoreError(f"{folder}: this index is of {names}. Rows are added for the same checkpoints: choose them.")
    first = current.ranges[0]
    for checkpoint in current.checkpoints:
        check_same(folder / current.segment_path(checkpoint, first), plan.segment_facts(checkpoint, first))
    return tuple(replace(weighed[checkpoint.fingerprint], name=checkpoint.name) for checkpoint in current.checkpoints)


def segment_names(manifest: Contents) -> list[str]:
    """Return the names of all segments."""
    return [manifest.segment_path(checkpoint, rows) for rows, checkpoint in manifest.segments()]


def other_names(manifest: Contents) -> list[str]:
    """Return the names of the files that are neither segments nor the list of living rows."""
    return sorted(manifest.files.keys() - {*segment_names(manifest), manifest.living})


def sweep(folder: Path, manifest: Contents, *, checkpoints: bool = False) -> None:
    """Delete what earlier states of the store, and killed writers, left beside what `manifest` names.

    With `checkpoints` segments of checkpoints that it does not name, too. Links are not followed out of the folder.
    """
    remove_leftovers(folder)
    for place in folder.glob("segments/*"):
        ours = any(name.startswith(f"segments/{place.name}/") for name in manifest.files)
        if not (ours or checkpoints) or not lies_inside(folder, place):
            continue
        remove_leftovers(place)
        for path in place.glob("*.safetensors"):
            if str(path.relative_to(folder)) not in manifest.files:
                path.unlink()
        if not any(place.iterdir()):
            place.rmdir()
    for name in other_names(manifest):
        base = PurePosixPath(name).name
        if base not in manifest.files:
            (folder / base).unlink(missing_ok=True)
    for path in folder.iterdir():
        staged = path.name == COMPACTED or _GROWN.fullmatch(path.name) is not None
        if staged and not path.is_symlink() and not any(name.startswith(f"{path.name}/") for name in manifest.files):
            shutil.rmtree(path)


def _drop_unlike(folder: Path, grown: Manifest, files: Mapping[str, FileEntry]) -> None:
    """Delete segments of a killed writer that are not what `grown` will hold, and its temporary files."""
    remove_leftovers(folder)
    facts = {
        grown.segment_path(checkpoint, rows): grown.segment_facts(checkpoint, rows)
        for rows, checkpoint in grown.segments()
    }
    for name in {str(PurePosixPath(name).parent) for name in facts}:
        remove_leftovers(folder / name)
        for path in (folder / name).glob("*.safetensors"):
            found = f"{name}/{path.name}"
            if found not in files and not (found in facts and _is_whole(path, facts[found])):
                path.unlink()


def _is_whole(path: Path, facts: Mapping[str, object]) -> bool:
    try:
        open_segment(path)
        return not unlike(read_facts(path), facts)
    except StoreError:
        return False


def _times_grown(manifest: Manifest) -> int:
    found = _GROWN.match(manifest.living)
    return int(found.group(1)) if found else 0
