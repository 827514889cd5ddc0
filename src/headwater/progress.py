"""Progress bars with time left, on stderr, for anything that may take over two seconds; and stages, for who listens."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headwater.files import write_json

Advance = Callable[[int], None]
"""Call it with the number of units just finished."""


@dataclass(frozen=True)
class Stage:
    """What is being done, and how far: `done` of `total` units; None where that cannot be told."""

    title: str
    done: int = 0
    total: int | None = None
    unit: str = ""


Listener = Callable[[Stage], None]
"""Called with each stage that begins or moves on, in the thread that works."""

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)

_LINE_EVERY = 15.0  # seconds between lines where there is no terminal to draw a bar in
_NOTE_EVERY = 0.5  # seconds between writings of the file that HEADWATER_PROGRESS names


def stage(title: str, done: int = 0, total: int | None = None, unit: str = "") -> None:
    """Tell the listener of this thread, if there is one, what is being done from now on."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(Stage(title, done, total, unit))


@contextmanager
def stages_to(listener: Listener) -> Iterator[None]:
    """Let `listener` hear of every stage of what this thread does inside; progress bars are stages too."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def progress_bar(title: str, total: int, *, unit: str = "rows", show: bool | None = None) -> Iterator[Advance]:
    """Show how far a job of `total` units is, and how long it still takes; yields the function that advances it.

    On a terminal it is a live bar; elsewhere (a log file, CI) a line every 15 seconds. `show=False` is silent;
    None means: not when HEADWATER_QUIET is set. Where HEADWATER_PROGRESS names a file, programs read the same there:
    {"title", "done", "total", "unit", "seconds_left"}. A listener (`stages_to`) hears of it whatever `show` is.
    """
    path = os.environ.get("HEADWATER_PROGRESS")
    with _drawn(title, total, unit=unit, show=show) as advance:
        if show is not False and path:
            advance = _noted(advance, Path(path), title, total, unit)
        yield advance if total < 2 or _LISTENER.get() is None else _staged(advance, title, total, unit)


def _staged(advance: Advance, title: str, total: int, unit: str) -> Advance:
    """Advance, and tell the listener. A bar of one unit would say nothing that its stages do not."""
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        advance(count)
        done += count
        stage(title, done, total, unit)

    tell(0)
    return tell


def _noted(advance: Advance, path: Path, title: str, total: int, unit: str) -> Advance:
    """Advance, and write how far it is."""
    started, last, done = time.monotonic(), float("-inf"), 0

    def note(count: int) -> None:
        nonlocal last, done
        advance(count)
        done += count
        now = time.monotonic()
        if now - last < _NOTE_EVERY and done < total:
            return
        last = now
        left = (now - started) / done * max(total - done, 0) if done else None
        write_json(path, {"title": title, "done": done, "total": total, "unit": unit, "seconds_left": left})

    note(0)
    return note


@contextmanager
def _drawn(title: str, total: int, *, unit: str, show: bool | None) -> Iterator[Advance]:
    if show is False or (show is None and os.environ.get("HEADWATER_QUIET")):
        yield lambda _: None
        return
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.advance(task, count)
        return
    started = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= _LINE_EVERY and done:
            last = now
            left = (now - started) / done * max(total - done, 0)
            print(f"{title}: {done:,} of {total:,} {unit}, about {left:.0f} s left", file=sys.stderr, flush=True)

    yield advance
