"""The one worker that may use the model: hooks on a shared model are not concurrent, and two passes at once only get
in each other's way. Its queue is bounded: who comes when it is full is told when to come again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TypeVar

Result = TypeVar("Result")

LENGTH = 16  # requests, the one at work included


class BusyError(Exception):
    """The queue is full. `retry_after`: seconds after which there should be room."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many questions at once. Try again in {retry_after} s.")
        self.retry_after = retry_after


class Worker:
    """Runs functions one after another in a thread of its own."""

    def __init__(self, length: int = LENGTH) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._lock = threading.Lock()
        self._length, self._waiting, self._usual = length, 0, 1.0

    async def run(self, function: Callable[[], Result]) -> Result:
        """Give `function` to the worker and wait for what it returns. Raises BusyError when the queue is full.

        A caller that goes away while it waits takes its function out of the queue.
        """
        with self._lock:
            if self._waiting >= self._length:
                raise BusyError(max(1, round(self._usual * self._waiting)))
            self._waiting += 1
        future = self._pool.submit(self._timed, function)
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def _timed(self, function: Callable[[], Result]) -> Result:
        started = monotonic()
        try:
            return function()
        finally:
            self._usual = 0.8 * self._usual + 0.2 * (monotonic() - started)

    def _done(self, _: object) -> None:
        with self._lock:
            self._waiting -= 1

    @property
    def waiting(self) -> int:
        """How many requests are in the queue, the one at work included."""
        return self._waiting

    def close(self) -> None:
        """Take no more work; drop what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)
