"""Checks of a finished store of any kind: are its files there, and are they what its manifest says?

Opening looks at the place and the size of every file, and a segment's header when that is first asked for; every later
question looks at the size again (`Mapped`). Checksums are read by `verify`, and by a build of what is there already.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from headwater.errors import StoreError
from headwater.files import file_digest
from headwater.store.arrays import REBUILD, read_facts, unlike
from headwater.store.manifest import Contents


def check_sizes(folder: Path, manifest: Contents) -> None:
    """Compare every file's size with the manifest. Raises StoreError naming the first that is missing or truncated.

    Also when one is a link that leads out of the folder: whoever sends an index could have any file read.
    """
    _check_inside(folder, manifest.files)
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise StoreError(f"{path}: this file of the index is missing. {REBUILD}")
        if path.stat().st_size != entry.bytes:
            raise StoreError(f"{path}: {path.stat().st_size:,} bytes, not {entry.bytes:,}: truncated. {REBUILD}")


@dataclass(frozen=True)
class Mapped:
    """A file that is memory-mapped, as it was when it was opened."""

    path: Path
    inode: int
    bytes: int

    @classmethod
    def of(cls, path: Path) -> Mapped:
        """Look at a file that was opened just now."""
        try:
            found = path.stat()
        except OSError:  # deleted in the moment since, by a compaction: its map stays readable
            return cls(path, -1, 0)
        return cls(path, found.st_ino, found.st_size)

    def check(self) -> None:
        """Raise StoreError when the file was cut in its place: touching the map would kill the process (SIGBUS).

        A file that was deleted or replaced by another does no harm: the map keeps what it was.
        """
        try:
            found = self.path.stat()
        except OSError:
            return
        if found.st_ino == self.inode and found.st_size < self.bytes:
            raise StoreError(
                f"{self.path}: {found.st_size:,} bytes, and {self.bytes:,} when it was opened: truncated. {REBUILD}"
            )


def verify_files(folder: Path, manifest: Contents) -> None:
    """Read every byte. Raises StoreError naming all files whose checksum or header is wrong."""
    expected = {
        manifest.segment_path(checkpoint, rows): manifest.segment_facts(checkpoint, rows)
        for rows, checkpoint in manifest.segments()
    }
    problems = []
    for name, entry in manifest.files.items():
        path = folder / name
        try:
            if file_digest(path) != entry.xxh3:
                problems.append(f"{path}: its bytes have changed since it was written (checksum).")
            elif name in expected and unlike(read_facts(path), expected[name]):
                problems.append(f"{path}: holds something else than the manifest says.")
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror}).")
    if problems:
        raise StoreError("\n".join(problems) + f"\n{REBUILD}")


def _check_inside(folder: Path, names: Iterable[str]) -> None:
    """Raise StoreError for a file, or a folder of files, that is a link to what lies outside `folder`."""
    root = os.path.realpath(folder)
    inside = {folder: True}
    for name in names:
        path = folder / name
        parent = path.parent
        if parent not in inside:
            inside[parent] = _lies_in(root, parent)
        if not inside[parent] or (path.is_symlink() and not _lies_in(root, path)):
            raise StoreError(
                f"{path}: is a link that leads out of the index. Put the file itself there (cp -L), or build again."
            )


def lies_inside(folder: Path, path: Path) -> bool:
    """Say whether `path`, every link followed, lies in `folder`."""
    return _lies_in(os.path.realpath(folder), path)


def _lies_in(root: str, path: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(root)
