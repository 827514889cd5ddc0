"""What a checkpoint's training_args.bin says about its schedule, read without unpickling it.

The file is a pickle, and loading one runs code from it. Its opcodes can be *listed* without running any: the names of
arguments stand there as plain strings, each followed by its value. What is found is only a hint, which must agree with
rates that are known from elsewhere.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import SchedulerType

_STRINGS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE")
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_REACH = 8  # opcodes between an argument's name and its value


@dataclass(frozen=True)
class ScheduleHint:
    """The arguments' `lr_scheduler_type` and warm-up; None where the file does not tell."""

    name: str | None = None
    warmup_steps: float | None = None
    warmup_ratio: float | None = None

    def warmup(self, total: int) -> int | None:
        """Warm-up steps of a training of `total` steps, as TrainingArguments works them out."""
        if self.warmup_steps is None:
            return None
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return math.ceil(total * max(self.warmup_steps, self.warmup_ratio or 0.0))


def schedule_hint(checkpoint: Path) -> ScheduleHint:
    """Read the hint; an empty one where there is no such file or it cannot be made out."""
    try:
        with zipfile.ZipFile(checkpoint / "training_args.bin") as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
            content = archive.read(name)
        codes = [(code.name, value) for code, value, _ in pickletools.genops(content)]
    except (OSError, zipfile.BadZipFile, KeyError, ValueError):
        return ScheduleHint()
    kind = _value_after(codes, "lr_scheduler_type", _STRINGS)
    kind = kind if kind in {member.value for member in SchedulerType} else None
    steps = _value_after(codes, "warmup_steps", _NUMBERS)
    ratio = _value_after(codes, "warmup_ratio", _NUMBERS)
    return ScheduleHint(kind, None if steps is None else float(steps), None if ratio is None else float(ratio))


def _value_after(codes: list[tuple[str, Any]], argument: str, kinds: tuple[str, ...]) -> Any:
    """The first value of one of `kinds` after the argument's name, unless another string stands before it."""
    places = [place for place, (code, value) in enumerate(codes) if code in _STRINGS and value == argument]
    if len(places) != 1:
        return None
    for code, value in codes[places[0] + 1 : places[0] + 1 + _REACH]:
        if code in kinds:
            return value
        if code in _STRINGS:
            return None
    return None
