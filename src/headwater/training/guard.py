"""What can go wrong while a training runs, said in one line, and cleared away."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from headwater.errors import HeadwaterError, RunError
from headwater.files import read_json
from headwater.runs.record import has_record, record_folder

_FULL = ("no space left", "disk quota", "file too large", "failed writing file", "unexpected pos")


@contextmanager
def guarded(out: Path) -> Iterator[None]:
    """Turn a full disk or full memory into a HeadwaterError; after any failure `out` holds a usable run or nothing.

    `out` was new or empty before. A checkpoint that was completed and recorded stays, as after an interruption.
    """
    try:
        yield
    except Exception as error:
        _clear(out, keep_recorded=not isinstance(error, DivergedError))
        explained = _explained(error, out)
        if explained is None:
            raise
        raise explained from error


class DivergedError(RunError):
    """The weights are no longer numbers."""


def check_finite(model: nn.Module) -> None:
    """Raise DivergedError if a trained weight is infinite or not a number: nothing such a model says means anything."""
    for name, value in model.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise DivergedError(f"the training diverged: {name} is not finite. Lower the learning rate.")


def _explained(error: Exception, out: Path) -> HeadwaterError | None:
    if isinstance(error, HeadwaterError):
        return None
    if isinstance(error, torch.OutOfMemoryError):
        return HeadwaterError("the accelerator's memory is full. Lower --batch-size or --max-length.")
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    told = str(error).lower()
    if full or (isinstance(error, SafetensorError | RuntimeError) and any(sign in told for sign in _FULL)):
        return HeadwaterError(f"{out}: the disk is full. Free some space, or choose another folder.")
    return None


def _clear(out: Path, *, keep_recorded: bool) -> None:
    """Delete what the failed training wrote, except checkpoints that the record names."""
    if not out.is_dir() or (keep_recorded and _recorded(out)):
        return
    shutil.rmtree(out, ignore_errors=True)


def _recorded(out: Path) -> bool:
    try:
        return has_record(out) and bool(read_json(record_folder(out) / "run.json")["checkpoints"])
    except (HeadwaterError, KeyError, TypeError):
        return False
