"""Bytes on disk: canonical JSON, fingerprints, and files that are either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import xxhash

from headwater.errors import HeadwaterError

_CHUNK = 1 << 22  # bytes read at a time when a file is hashed


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN. Equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(parts: Iterable[str | bytes]) -> str:
    """XXH3-128 (hex) over the parts, each preceded by its length so that no two lists collide by joining."""
    state = xxhash.xxh3_128()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return str(state.hexdigest())


def file_digest(path: Path) -> str:
    """XXH3-128 (hex) of a file's bytes. It finds damage; it is no defence against forgery."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return str(state.hexdigest())


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it into place.

    After a crash at any moment `path` holds its old content or its new one, never half of either.
    Raises HeadwaterError when the disk is full or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def link_file(source: Path, target: Path) -> None:
    """Give a file that is never written to again a second name, atomically; a copy where the disk knows no links."""
    with atomic_file(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.EACCES):
                raise
            shutil.copyfile(source, temporary)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically (see `atomic_file`)."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value atomically, indented for people, keys sorted."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises HeadwaterError naming the file when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HeadwaterError(f"{path}: no such file.") from None
    except (ValueError, RecursionError) as error:  # of bytes, of JSON, of a number of 5,000 digits; nested too deep
        raise HeadwaterError(f"{path}: not valid JSON ({error}).") from error


def can_write(path: Path) -> bool:
    """Say whether this process may write a file, or into a folder."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed process left in `folder`."""
    for leftover in folder.glob(".*.part"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _explain(error: OSError, path: Path) -> HeadwaterError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HeadwaterError(f"{path}: the disk is full. Free some space, or choose another folder.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return HeadwaterError(f"{path}: this folder cannot be written. Choose another with --out.")
    return HeadwaterError(f"{path}: {error.strerror or error}.")
