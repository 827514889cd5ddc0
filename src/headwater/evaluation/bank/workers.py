"""Processes that retrain, a few at a time: each reads the bank for itself and sends back finished files.

They are programs of their own (`python -m headwater.evaluation.bank.worker`), not copies of this process: torch cannot
go on in a copy, and a script that starts copies of itself would have to be written for it. Only this process writes to
the bank. When it dies, however it dies, its workers find nobody to talk to and end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import headwater
from headwater.errors import HeadwaterError

Item = tuple[int, int]
"""Number of the subset, and seed."""
Next = Callable[[], Item | None]
Keep = Callable[[Item, bytes, float], None]
"""Takes a finished item: what its file holds, and the seconds it took."""


class Worker:
    """One process. `ask` waits for its answer; `kill` may be called from another thread, and ends the waiting."""

    def __init__(self, run: Path, bank: Path, threads: int) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  it is read when the process has died
        self._process = subprocess.Popen(
            [sys.executable, "-m", "headwater.evaluation.bank.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(threads),
        )
        self._send({"run": str(run), "bank": str(bank)})

    def ask(self, item: Item) -> tuple[bytes, float]:
        """Have one item retrained. Raises HeadwaterError with what went wrong there."""
        self._send({"subset": item[0], "seed": item[1]})
        pipe = cast(IO[bytes], self._process.stdout)
        told = pipe.readline()
        if not told.endswith(b"\n"):
            raise HeadwaterError(self._last_words())
        answer = json.loads(told)
        if "error" in answer:
            raise HeadwaterError(answer["error"])
        content = pipe.read(answer["bytes"])
        if len(content) != answer["bytes"]:
            raise HeadwaterError(self._last_words())
        return content, float(answer["seconds"])

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def close(self) -> None:
        """Wait for the end of a process that was killed, and free what it held."""
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            try:
                cast(IO[bytes], pipe).close()
            except BrokenPipeError:
                continue

    def _send(self, message: dict[str, Any]) -> None:
        pipe = cast(IO[bytes], self._process.stdin)
        try:
            pipe.write(json.dumps(message).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            raise HeadwaterError(self._last_words()) from None

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else "it said nothing"
        hint = " Is the memory full? Use fewer processes." if code == -9 else ""
        return f"a retraining process ended with code {code}: {why}{hint}"


def work(start: Callable[[], Worker], count: int, following: Next, keep: Keep, *, until: float | None = None) -> None:
    """Keep `count` workers busy with what `following` gives, until it gives None or the clock reaches `until`.

    `following` and `keep` are called by one thread at a time. What is unfinished at `until` (time.monotonic()) is
    dropped. Raises the first error of a worker, after ending the others.
    """
    lock, stopped = threading.Lock(), threading.Event()
    workers: list[Worker] = []
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            with lock:
                item = None if stopped.is_set() else following()
                if item is None:
                    return
                worker = start()
                workers.append(worker)
            while item is not None:
                content, seconds = worker.ask(item)
                with lock:
                    if stopped.is_set():
                        return
                    keep(item, content, seconds)
                    item = following()
        except BaseException as error:
            if not stopped.is_set():
                failures.append(error)
                stopped.set()
                for other in list(workers):
                    other.kill()

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
    finally:
        with lock:
            stopped.set()
            for worker in workers:
                worker.kill()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()
    if failures:
        raise failures[0]


def _environment(threads: int) -> dict[str, str]:
    """This process' own, with so many threads that sleep when idle, quiet, and able to import the same Headwater."""
    source = str(Path(headwater.__file__).parent.parent)
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    fixed = {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HEADWATER_QUIET": "1",
    }
    return {**os.environ, **{f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL")}, **fixed}
