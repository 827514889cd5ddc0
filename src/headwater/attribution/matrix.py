"""The matrix of all scores: in memory, or streamed to a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headwater.files import atomic_file


@contextlib.contextmanager
def score_matrix(shape: tuple[int, int], out: str | Path | None) -> Iterator[NDArray[np.float32]]:
    """Give a matrix in memory, or one mapped to a .npy file that takes its name only when it is full.

    Raises HeadwaterError when the disk has no room for it.
    """
    if out is None:
        yield np.zeros(shape, dtype=np.float32)
        return
    with atomic_file(Path(out)) as temporary:
        mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        _reserve(temporary)
        yield mapped
        mapped.flush()
        del mapped


def _reserve(path: Path) -> None:
    """Claim the disk space of a file now: writing to a map of it on a full disk would kill the process."""
    with contextlib.suppress(AttributeError), path.open("rb+") as file:  # macOS has no posix_fallocate
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
