"""The process of one job, run as a script: it waits for its turn, runs the command, and notes how that ended.

It imports nothing of the package, so that it is there at once, and it holds a lock on its folder for as long as it
lives: whoever looks knows by the lock, not by a process number that another program may have by now.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

JOB, BEGUN, ENDED, CANCEL, ALIVE = "job.json", "begun.json", "ended.json", "cancel", "alive.lock"
OUT, LOG, PROGRESS = "out.txt", "log.txt", "progress.json"
YOUNG = 60.0  # seconds in which a job's process should have come
_EVERY = 0.2  # seconds between two looks
_PATIENCE = 10.0  # seconds that a cancelled command has to end by itself
_NICE = 10


def is_alive(folder: Path) -> bool:
    """Whether the job's process lives, was started just now, or is about to be."""
    lock = folder / ALIVE
    if not lock.exists():
        return time.time() - _prepared(folder) < YOUNG
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _prepared(folder: Path) -> float:
    """When a job was written; of one whose preparation goes on, or ended in the middle, when that last did anything."""
    for path in (folder / JOB, folder):
        try:
            return path.stat().st_mtime
        except FileNotFoundError:
            continue
    return 0.0


def is_over(folder: Path) -> bool:
    """Whether nothing more will come of the job."""
    return (folder / ENDED).exists() or not is_alive(folder)


def note(path: Path, facts: dict[str, Any]) -> None:
    """Write a small file, whole or not at all."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(facts), encoding="utf-8")
    temporary.replace(path)


def run(folder: Path) -> None:
    """Wait until all earlier jobs are over, then run the command. A file named `cancel` ends it."""
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    with FileLock(folder / ALIVE):
        while not _first(folder):
            if (folder / CANCEL).exists():
                note(folder / ENDED, {"state": "cancelled", "code": None, "at": time.time()})
                return
            time.sleep(_EVERY)
        note(folder / BEGUN, {"at": time.time()})
        state, code = _command(folder, job["command"])
        note(folder / ENDED, {"state": state, "code": code, "at": time.time()})


def _first(folder: Path) -> bool:
    """Whether no earlier job is waiting or at work."""
    others = (path for path in folder.parent.iterdir() if path.name.isdigit() and int(path.name) < int(folder.name))
    return all(is_over(path) for path in others)


def _command(folder: Path, command: list[str]) -> tuple[str, int | None]:
    if hasattr(os, "nice"):
        os.nice(_NICE)
    environment = {**os.environ, "HEADWATER_PROGRESS": str(folder / PROGRESS)}
    with (folder / OUT).open("wb") as out, (folder / LOG).open("wb") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=environment, start_new_session=True
        )
        while child.poll() is None:
            if (folder / CANCEL).exists():
                _end(child)
                return "cancelled", None
            time.sleep(_EVERY)
    return ("done" if child.returncode == 0 else "failed"), child.returncode


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the command and all that it started: asked first, then made to."""
    _signal(child, signal.SIGTERM)
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        _signal(child, getattr(signal, "SIGKILL", signal.SIGTERM))
        child.wait()


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    try:
        if hasattr(os, "killpg"):
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    run(Path(sys.argv[1]))
