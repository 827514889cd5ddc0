"""Jobs from the workbench: the cost first, a real repair retrained and proved, cancelled, seen after a restart."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import headwater as hw
from headwater.engines.jobs import Jobs
from headwater.runs import Run

PATIENCE = 120.0  # seconds until a test gives up


@pytest.fixture
def run(copied_run: Path) -> Iterator[Path]:
    """A run whose jobs end with the test."""
    yield copied_run
    jobs = Jobs(copied_run / "headwater" / "jobs")
    for job in jobs.all():
        jobs.cancel(job.number)
    wait(lambda: all(job.over for job in jobs.all()))


def wait(done: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = done()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it took too long")


def mark(client: TestClient, rows: list[int]) -> None:
    for row in rows:
        assert client.put(f"/api/marks/{row}", json={"action": "delete"}).status_code == 200


def ended(client: TestClient, number: int) -> Any:
    def over() -> Any:
        job = client.get(f"/api/jobs/{number}").json()
        return job if job["state"] not in ("queued", "running") else None

    return wait(over)


def test_a_marked_run_is_repaired_retrained_and_proved(run: Path, client_of: Callable[[Path], TestClient]) -> None:
    client = client_of(run)
    mark(client, [1, 4, 9])
    before = {
        path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "headwater/jobs" not in str(path)
    }
    wanted = {"kind": "fix", "seeds": 2}
    cost = client.post("/api/jobs/cost", json=wanted).json()
    assert (
        cost["does"].startswith("3 rows deleted; 7 trainings of about") and cost["seconds"] > 0
    )  # 2 x 3 arms, and one
    assert client.get("/api/jobs").json() == []
    started = client.post("/api/jobs", json=wanted)
    assert started.status_code == 201
    job = ended(client_of(run), started.json()["number"])  # another server over the same run
    assert job["state"] == "done", job["log"]
    out = Path(job["facts"]["out"])
    assert out == run.with_name("run-fixed-1") and len(Run.open(out).corpus) == 57
    drawn = client_of(run).get(f"/proof/{job['number']}")
    assert drawn.status_code == 200
    for told in ("3 rows deleted", "Against untouched", "Against control", "Did the estimate come true?"):
        assert told in drawn.text
    assert "See the proof" in client.get("/jobs").text
    assert {path: path.read_bytes() for path in before} == before  # the old run is as it was
    assert hw.Run.open(run).corpus.fingerprint == hw.Run.open(run).corpus.fingerprint


def test_what_cannot_be_started_is_refused_before_anything_is_written(
    run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    client = client_of(run)
    for path in ("/api/jobs", "/api/jobs/cost"):
        refused = client.post(path, json={"kind": "fix"})
        assert refused.status_code == 422 and "nothing is accepted yet" in refused.json()["error"]
    for wrong in (
        {"kind": "shell"},
        {"kind": "audit", "what": "; rm"},
        {"kind": "fix", "seeds": 0},
        {"kind": "evaluate", "budget": 0},
        {"kind": "index", "out": "/tmp/elsewhere"},
        {"kind": "index", "method": "nobody"},
        {"kind": "evaluate", "methods": ["--out=/tmp/x"]},
        {},
    ):
        refused = client.post("/api/jobs", json=wrong)
        assert refused.status_code in (409, 422) and refused.json()["error"], wrong
    assert not (run / "headwater" / "jobs").exists()
    assert client.get("/api/jobs/1").status_code == 422
    assert client.get("/proof/1").status_code == 422


def test_an_audit_fills_the_worklist_and_a_job_is_cancelled(run: Path, client_of: Callable[[Path], TestClient]) -> None:
    client = client_of(run)
    assert (
        client.post("/api/jobs/cost", json={"kind": "audit", "what": "duplicates", "budget": 2}).json()["most"] == 120
    )
    first = client.post("/api/jobs", json={"kind": "audit", "what": "duplicates", "budget": 2}).json()
    second = client.post("/api/jobs", json={"kind": "evaluate", "budget": 2}).json()
    cancelled = client.post(f"/api/jobs/{second['number']}/cancel").json()
    assert cancelled["number"] == second["number"]
    assert ended(client, second["number"])["state"] == "cancelled"
    job = ended(client, first["number"])
    assert job["state"] == "done", job["log"]
    assert (run / "audit" / "duplicates" / "plan.jsonl").is_file()
    assert "cancelled" in client.get("/jobs?kind=audit").text


def test_the_cost_of_an_index_is_an_estimate_of_it(run: Path, client_of: Callable[[Path], TestClient]) -> None:
    cost = client_of(run).post("/api/jobs/cost", json={"kind": "index"}).json()
    assert cost["seconds"] == 0 and "index" in cost["does"]  # it is there already
    for kind in ("fix", "audit", "evaluate", "index"):
        assert client_of(run).get("/jobs", params={"kind": kind}).status_code == 200
