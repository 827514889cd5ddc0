"""Reading beside a writer: what is read is of one manifest, from its first file to its last.

A writer replaces the manifest in one step, after the files that it names are whole and before those that it no longer
names are deleted. So a reader that finds the same manifest after it opened the files as before has opened what that
manifest names; otherwise it begins again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from headwater.errors import HeadwaterError, StoreError
from headwater.store.manifest import NAME

Read = TypeVar("Read")
_TRIES, _PAUSE = 20, 0.05  # a second in all: a manifest is replaced twice by a compaction, once by whatever else


def read_steadily(folder: Path, read: Callable[[], Read]) -> Read:
    """Return what `read` returns while the manifest of `folder` stays as it is.

    Raises what `read` raises, and StoreError when the manifest is replaced again and again.
    """
    for _ in range(_TRIES):
        before = state_of(folder)
        try:
            found = read()
        except (HeadwaterError, OSError):
            if state_of(folder) == before:
                raise
        else:
            if state_of(folder) == before:
                return found
        time.sleep(_PAUSE)
    raise StoreError(f"{folder}: another process changes this index again and again. Try again when it is done.")


def state_of(folder: Path) -> tuple[int, int, int] | None:
    """Return what changes when the manifest of `folder` is replaced; None where there is none."""
    try:
        found = (folder / NAME).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
