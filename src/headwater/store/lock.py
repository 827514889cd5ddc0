"""One writer at a time. The kernel drops the lock when its process dies, however it dies: no lock is ever stale."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from headwater.errors import StoreError


@contextmanager
def writer_lock(folder: Path, what: str = "index") -> Iterator[None]:
    """Hold the folder's writer lock. Raises StoreError, naming the owner and since when, while another process does.

    `what` is what the message calls the folder's content.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written ({error.strerror}). Choose another folder with --out."
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            raise StoreError(f"{folder}: {owner} is writing to this {what}. Wait for it, or stop it.") from None
        except OSError as error:
            raise StoreError(
                f"{folder}: cannot be locked ({error.strerror}). Choose a folder on a local disk with --out."
            ) from error
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same, without its owner's name
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}, since {since},".encode(), 0)
        yield
    finally:
        os.close(handle)
