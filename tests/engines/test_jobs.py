"""Jobs outlive who started them, run one at a time, and can be cancelled; what they did is known from files alone."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headwater.engines import job_process
from headwater.engines.jobs import Job, Jobs
from headwater.errors import DataError

PATIENCE = 30.0  # seconds until a test gives up


def start(jobs: Jobs, code: str, **facts: Any) -> Job:
    return jobs.start(jobs.prepare(), "test", "a title", [sys.executable, "-c", code], facts)


def until(jobs: Jobs, number: int, wanted: Callable[[Job], bool]) -> Job:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        job = jobs.get(number)
        if wanted(job):
            return job
        time.sleep(0.05)
    raise AssertionError(f"job {number} stayed {jobs.get(number)}")


def over(job: Job) -> bool:
    return job.over


def test_a_job_runs_and_what_it_did_is_read_by_another_object(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    job = start(jobs, "import sys; print('out'); print('told', file=sys.stderr)", out="somewhere")
    assert job.number == 1 and job.state in ("queued", "running")
    done = until(Jobs(tmp_path), 1, over)
    assert (done.state, done.code, done.facts) == ("done", 0, {"out": "somewhere"})
    assert Jobs(tmp_path).log(1).strip() == "told"
    assert (tmp_path / "1" / "out.txt").read_text().strip() == "out"
    assert done.begun is not None and done.ended is not None and done.created <= done.begun <= done.ended


def test_a_failure_keeps_its_code_and_its_words(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    failed = until(jobs, start(jobs, "raise SystemExit('no such thing')").number, over)
    assert (failed.state, failed.code) == ("failed", 1) and "no such thing" in jobs.log(1)


def test_jobs_run_one_at_a_time_in_their_order(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    code = "import time; p = open({!r}, 'a'); p.write('{}<'); p.flush(); time.sleep(0.3); p.write('>')"
    told = tmp_path / "told"
    for number in (1, 2, 3):
        start(jobs, code.format(str(told), number))
    until(jobs, 3, over)
    assert told.read_text() == "1<>2<>3<>"


def test_a_running_job_and_a_waiting_one_are_cancelled(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    child = "import subprocess, sys, time; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    start(jobs, child)
    start(jobs, "print('never')")
    until(jobs, 1, lambda job: job.state == "running")
    assert jobs.get(2).state == "queued"
    jobs.cancel(2)
    assert until(jobs, 2, over).state == "cancelled" and jobs.get(1).state == "running"
    jobs.cancel(1)
    assert until(jobs, 1, over).state == "cancelled"
    assert jobs.cancel(1).state == "cancelled"  # again: stays as it is
    assert not (tmp_path / "2" / "out.txt").exists()


def test_a_job_whose_process_was_killed_is_lost_and_holds_nobody_up(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    start(jobs, "import time; time.sleep(1)")
    until(jobs, 1, lambda job: job.state == "running")
    (process,) = jobs._started
    os.kill(process.pid, signal.SIGKILL)
    assert until(jobs, 1, over).state == "lost"
    start(jobs, "print('next')")
    assert until(jobs, 2, over).state == "done"


def test_progress_is_read_while_a_job_is_at_work(tmp_path: Path) -> None:
    code = (
        "import time\nfrom headwater.progress import progress_bar\n"
        "with progress_bar('counting', 4, unit='sheep') as advance:\n"
        "    advance(1)\n    time.sleep(0.6)\n    advance(1)\n    time.sleep(600)\n"
    )
    jobs = Jobs(tmp_path)
    start(jobs, code)
    job = until(jobs, 1, lambda job: job.step is not None and job.step.done == 2)
    assert job.step is not None
    assert (job.step.title, job.step.total, job.step.unit) == ("counting", 4, "sheep")
    assert job.step.seconds_left is not None and job.step.seconds_left > 0
    jobs.cancel(1)
    assert until(jobs, 1, over).step is None


def test_a_job_has_a_low_priority(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    start(jobs, "import os; print(os.nice(0))")
    until(jobs, 1, over)
    assert int((tmp_path / "1" / "out.txt").read_text()) > os.nice(0)


def test_a_job_that_never_came_is_lost_and_numbers_are_not_used_twice(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    place = jobs.prepare()
    (place / job_process.JOB).write_text(
        json.dumps({"kind": "x", "title": "x", "command": [], "created": 0, "facts": {}})
    )
    assert jobs.get(1).state == "queued"
    old = time.time() - 2 * job_process.YOUNG
    os.utime(place / job_process.JOB, (old, old))
    assert jobs.get(1).state == "lost"
    assert jobs.prepare().name == "2" and jobs.prepare().name == "3"
    with pytest.raises(DataError, match="no job 9"):
        jobs.get(9)


def test_a_job_whose_preparation_ended_in_the_middle_holds_nobody_up(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    place = jobs.prepare()  # as a server leaves it that is killed now
    assert not job_process.is_over(place)  # it may be prepared still
    old = time.time() - 2 * job_process.YOUNG
    os.utime(place, (old, old))
    assert job_process.is_over(place)
    assert until(jobs, start(jobs, "print('next')").number, over).state == "done"


def test_a_job_that_could_not_be_prepared_leaves_nothing(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    with pytest.raises(OSError, match="no space"), jobs.preparing() as place:
        (place / "plan.jsonl").write_text("{}")
        raise OSError("no space")
    assert list(tmp_path.iterdir()) == [] and jobs.all() == []
    with jobs.preparing() as place:
        job = jobs.start(place, "test", "a title", ["true"])
    assert until(jobs, job.number, over).state == "done"
