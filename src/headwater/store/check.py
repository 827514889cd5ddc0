"""Checks of a finished store of any kind: are its files there, and are they what its manifest says?"""

from __future__ import annotations

from pathlib import Path

from headwater.errors import StoreError
from headwater.files import file_digest
from headwater.store.arrays import REBUILD, read_facts, unlike
from headwater.store.manifest import Contents


def check_sizes(folder: Path, manifest: Contents) -> None:
    """Compare every file's size with the manifest. Raises StoreError naming the first that is missing or truncated."""
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise StoreError(f"{path}: this file of the index is missing. {REBUILD}")
        if path.stat().st_size != entry.bytes:
            raise StoreError(f"{path}: {path.stat().st_size:,} bytes, not {entry.bytes:,}: truncated. {REBUILD}")


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
