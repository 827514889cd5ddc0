"""Work in a forked process that may die of a signal, and disks of our own that no other process sees."""

from __future__ import annotations

import ctypes
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18


def forked(work: Callable[[], object], *, out: Path | None = None) -> int:
    """Start `work` in a process of its own; returns its id. What it returns or raises is written to `out`."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        told: object = None
        try:
            told, code = work(), 0
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            if os.environ.get("TRACE"):
                traceback.print_exc()
        if out is not None:
            out.write_text(json.dumps(told))
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a process; its exit code (1: it raised), or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_apart(work: Callable[[], object], out: Path) -> tuple[int, Any]:
    """Run `work` in a process of its own: how it ended, and what it returned, or "Error: message"."""
    code = ended(forked(work, out=out))
    return code, json.loads(out.read_text()) if out.exists() else None


def own_disks() -> None:
    """From here on mounts of this process are seen by no other. Raises OSError where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_MOUNTS | (0 if user == 0 else _NEW_USER)):
        raise OSError(ctypes.get_errno(), "unshare")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("none", Path("/"), "", _RECURSIVE | _PRIVATE, "")


def small_disk(folder: Path, pages: int, *, again: bool = False) -> None:
    """Mount a disk of so many pages of 4 KiB in memory; `again` makes it larger and keeps its files."""
    folder.mkdir(exist_ok=True)
    _mount("tmpfs", folder, "tmpfs", _REMOUNT if again else 0, f"size={4 * pages}k")


def make_read_only(folder: Path) -> None:
    """Root's permissions stop nobody who is root; a disk that is mounted read-only does."""
    _mount(str(folder), folder, "", _BIND, "")
    _mount(str(folder), folder, "", _BIND | _REMOUNT | _READ_ONLY, "")


def _mount(source: str, target: Path, kind: str, flags: int, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [part.encode() or None for part in (source, str(target), kind)]
    if libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None):
        raise OSError(ctypes.get_errno(), f"mount {target}")


def _can_mount() -> str:
    """Empty, or why not."""
    try:
        child = forked(own_disks)
    except OSError as error:
        return str(error)
    return "" if ended(child) == 0 else "this process may not mount disks of its own"


_WHY_NOT = _can_mount() if hasattr(os, "fork") else "no fork here"
needs_disks = pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)
