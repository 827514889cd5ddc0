"""What the commands print with: answers on stdout, all else on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from headwater.errors import HeadwaterWarning

_PIPED_WIDTH = 100  # columns where there is no terminal to ask


def answers() -> Console:
    """Return the console of stdout."""
    return _console(stderr=False)


def asides() -> Console:
    """Return the console of stderr."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPED_WIDTH
    return console


def print_json(value: Any) -> None:
    """Print a value on stdout as JSON. Letters beyond ASCII are escaped where stdout cannot hold them."""
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    sys.stdout.write(json.dumps(value, ensure_ascii=plain, allow_nan=False, indent=1) + "\n")
    sys.stdout.flush()


def print_error(message: str, *, name: str = "Error") -> None:
    """Print one line on stderr."""
    _line(name, message, "bold red")


def print_note(message: str) -> None:
    """Print one line on stderr about something that does not stop the work."""
    _line("Note", message, "bold yellow")


def _line(name: str, message: str, style: str) -> None:
    text = Text.assemble((f"{name}: ", style), " ".join(message.split())) if name else Text(message)
    asides().print(text, soft_wrap=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Show Headwater's own warnings as notes, each once, and its log; hold back what other libraries tell."""
    shown: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, HeadwaterWarning) and str(message) not in shown:
            shown.add(str(message))
            print_note(str(message))

    log = logging.getLogger("headwater")
    level, handler = log.level, _Notes()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:  # python -W and PYTHONWARNINGS: the user wants to see
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", HeadwaterWarning)
                warnings.showwarning = show
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        asides().print(Text(record.getMessage(), style="dim"), soft_wrap=True)


def size(count: float) -> str:
    """Return bytes as people read them: "940 B", "58 MB", "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.1f} {unit}" if 0 < count < 9.95 and unit != "B" else f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def duration(seconds: float) -> str:
    """Return a time as people read it: "0.4 s", "12 s", "1 min 40 s", "3 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
