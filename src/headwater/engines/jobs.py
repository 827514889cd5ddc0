"""Long work in processes of low priority, one at a time, that outlive whoever started them.

FOLDER/<number>/   job.json              what, since when, what it should cost
                   begun.json ended.json when there; progress.json while at work
                   out.txt log.txt       what the command printed
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headwater.engines import job_process as process
from headwater.errors import DataError
from headwater.files import write_json

State = Literal["queued", "running", "done", "failed", "cancelled", "lost"]
_TAIL = 16 << 10  # bytes of a log that are shown


@dataclass(frozen=True)
class Step:
    """What a job is at, and how far. `seconds_left` is None until it can be told."""

    title: str
    done: int
    total: int
    unit: str
    seconds_left: float | None


@dataclass(frozen=True)
class Job:
    """One job. Times are seconds since 1970; `lost`: its process died without a word (a power cut, a kill)."""

    number: int
    kind: str
    title: str
    command: tuple[str, ...]
    created: float
    state: State
    begun: float | None
    ended: float | None
    code: int | None
    step: Step | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What its kind wants to remember, as JSON holds it."""

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state not in ("queued", "running")

    @property
    def seconds(self) -> float | None:
        """How long it has been at work."""
        if self.begun is None:
            return None
        return (self.ended or time.time()) - self.begun


class Jobs:
    """The jobs of one folder. Any process may look and cancel: all that is known is in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def prepare(self) -> Path:
        """Make the folder of the next job, into which its inputs may be written before it starts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = max(self._numbers(), default=0)
        while True:
            number += 1
            try:
                (self.folder / str(number)).mkdir()
            except FileExistsError:  # another server was faster
                continue
            return self.folder / str(number)

    @contextmanager
    def preparing(self) -> Iterator[Path]:
        """Make the folder of the next job, as `prepare`; it goes again where the job is not started after all."""
        place = self.prepare()
        try:
            yield place
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise

    def start(
        self, place: Path, kind: str, title: str, command: Sequence[str], facts: Mapping[str, Any] | None = None
    ) -> Job:
        """Start `command` in the background, after all earlier jobs; `place` is what `prepare` made."""
        job = {"kind": kind, "title": title, "command": list(command), "created": time.time(), "facts": facts or {}}
        write_json(place / process.JOB, job)
        script = Path(process.__file__)
        self._reap()
        self._started.append(
            subprocess.Popen(
                [sys.executable, "-P", str(script), str(place.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=(place / "process.txt").open("wb"),
                start_new_session=True,
            )
        )
        return self.get(int(place.name))

    def all(self) -> list[Job]:
        """Return all jobs, the latest first."""
        self._reap()
        found = (self._read(number) for number in sorted(self._numbers(), reverse=True))
        return [job for job in found if job is not None]

    def get(self, number: int) -> Job:
        """Return one job. Raises DataError where there is none of this number."""
        job = self._read(number)
        if job is None:
            raise DataError(f"there is no job {number}.")
        return job

    def cancel(self, number: int) -> Job:
        """Ask a job to end; it does within seconds. One that is over stays as it is."""
        if not self.get(number).over:
            (self.folder / str(number) / process.CANCEL).touch()
        return self.get(number)

    def log(self, number: int) -> str:
        """Return the end of what the command told people (stderr)."""
        path = self.folder / str(self.get(number).number) / process.LOG
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _TAIL, 0))
            return file.read().decode("utf-8", "replace")

    def _numbers(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(path.name) for path in self.folder.iterdir() if path.name.isdigit()]

    def _read(self, number: int) -> Job | None:
        place = self.folder / str(number)
        job = _json(place / process.JOB)
        if job is None:
            return None
        ended, begun = _json(place / process.ENDED), _json(place / process.BEGUN)
        state: State
        if ended is not None:
            state = ended["state"]
        elif process.is_alive(place):
            state = "running" if begun is not None else "queued"
        else:
            late = _json(place / process.ENDED)  # it may have ended between the two looks
            ended, state = late, late["state"] if late else "lost"
        step = _json(place / process.PROGRESS) if state == "running" else None
        return Job(
            number,
            job["kind"],
            job["title"],
            tuple(job["command"]),
            job["created"],
            state,
            None if begun is None else begun["at"],
            None if ended is None else ended["at"],
            None if ended is None else ended["code"],
            None if step is None else Step(**step),
            job["facts"],
        )

    def _reap(self) -> None:
        """Let go of processes that ended, which else stay in the system's table."""
        self._started = [each for each in self._started if each.poll() is None]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
