"""The one worker that may use the model: hooks on a shared model are not concurrent, and two passes at once only get
in each other's way. Its line is bounded: who comes when it is full is told when to come again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar, cast

from headwater.progress import Stage, stages_to

Result = TypeVar("Result")

LENGTH = 16  # calls, the one at work included


class BusyError(Exception):
    """The line is full. `retry_after`: seconds after which there should be room."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many questions at once. Try again in {retry_after} s.")
        self.retry_after = retry_after


@dataclass(eq=False)
class Call:
    """A call in the line. `stage`: what the worker is at with it; None before it begins."""

    future: Future[Any] = field(default_factory=Future)
    stage: Stage | None = None
    begun: bool = False
    waiters: int = 0


@dataclass(eq=False)
class Watch:
    """Somebody who waits for one or several calls, one after another. `call`: the latest."""

    since: float = field(default_factory=monotonic)
    call: Call | None = None


WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)
"""Who waits in this task: what it calls the worker for is noted there."""


class Worker:
    """Runs functions one after another in a thread of its own."""

    def __init__(self, length: int = LENGTH) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._lock = threading.Lock()
        self._length, self._usual = length, 1.0
        self._line: list[Call] = []
        self._shared: dict[Hashable, Call] = {}

    async def run(self, function: Callable[[], Result], key: Hashable = None) -> Result:
        """Give `function` to the worker and wait for what it returns. Raises BusyError when the line is full.

        Calls of one `key` that wait at the same time are one call. When all who wait for it have gone away before it
        began, it is taken out of the line.
        """
        call = self._enter(function, key)
        watch = WATCH.get()
        if watch is not None:
            watch.call = call
        try:
            return cast(Result, await asyncio.shield(asyncio.wrap_future(call.future)))
        except asyncio.CancelledError:
            with self._lock:
                call.waiters -= 1
            if not call.waiters:
                call.future.cancel()
            raise

    def _enter(self, function: Callable[[], Any], key: Hashable) -> Call:
        with self._lock:
            call = None if key is None else self._shared.get(key)
            if call is not None:
                call.waiters += 1
                return call
            if len(self._line) >= self._length:
                raise BusyError(max(1, round(self._usual * len(self._line))))
            call = Call(waiters=1)
            call.future = self._pool.submit(self._work, call, function)
            self._line.append(call)
            if key is not None:
                self._shared[key] = call
        call.future.add_done_callback(lambda _: self._leave(call, key))
        return call

    def _work(self, call: Call, function: Callable[[], Result]) -> Result:
        def listen(stage: Stage) -> None:
            call.stage = stage

        started, call.begun = monotonic(), True
        try:
            with stages_to(listen):
                return function()
        finally:
            self._usual = 0.8 * self._usual + 0.2 * (monotonic() - started)

    def _leave(self, call: Call, key: Hashable) -> None:
        with self._lock:
            self._line.remove(call)
            if self._shared.get(key) is call:
                del self._shared[key]

    @property
    def waiting(self) -> int:
        """How many calls are in the line, the one at work included."""
        return len(self._line)

    def before(self, call: Call) -> int:
        """Return how many calls come before this one; 0 where it is at work, or over."""
        with self._lock:
            return 0 if call.begun or call not in self._line else self._line.index(call)

    def close(self) -> None:
        """Take no more work; drop what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)
