"""Marks and jobs do not wait for the model: not while it is at work, and not while an index that changed is opened."""

import os
from collections.abc import Callable
from pathlib import Path

from fastapi.testclient import TestClient

import headwater as hw
from headwater.engines.jobs import Jobs
from web.conftest import bench_of, busy


def test_a_row_is_marked_and_a_job_cancelled_while_the_model_is_at_work_and_the_index_changed(
    copied_run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    client = client_of(copied_run)
    jobs = Jobs(copied_run / "headwater" / "jobs")
    job = jobs.start(jobs.prepare(), "index", "a long job", ["sleep", "600"])
    with busy(bench_of(client)) as gate:
        os.utime(copied_run / "index" / "manifest.json")
        assert not bench_of(client).index.is_current()
        assert client.put("/api/marks/3", json={"action": "delete"}).status_code == 200
        for path in ("/api/marks", "/api/marks/3", "/api/suggestions?row=3", "/api/plan", "/worklist", "/api/worklist"):
            assert client.get(path).status_code == 200, path
        for path in ("/jobs", "/jobs?kind=audit", "/jobs?kind=index", "/api/jobs", f"/api/jobs/{job.number}"):
            assert client.get(path).status_code == 200, path
        assert client.post(f"/api/jobs/{job.number}/cancel").status_code == 200
        assert not gate.is_set()
    assert client.get("/jobs?kind=evaluate").status_code == 200


def test_marks_and_jobs_see_an_index_that_grew(copied_run: Path, client_of: Callable[[Path], TestClient]) -> None:
    client, index = client_of(copied_run), hw.Index.open(copied_run / "index")
    rows = [{"text": row.text, "label": row.label} for row in index.corpus]
    with busy(bench_of(client)):
        hw.Index.build(index.run, corpus=[*rows, rows[0]], show=False)
        assert client.put("/api/marks/60", json={"action": "delete"}).status_code == 200
        assert "row 60" in client.get("/worklist/group?audit=by+hand&rows=all").text


def test_marks_and_jobs_do_not_need_an_index_that_can_be_opened(
    copied_run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    client = client_of(copied_run)
    (copied_run / "index" / "manifest.json").write_text("{}")
    assert client.get("/api/why?row=1").status_code == 409
    assert client.put("/api/marks/3", json={"action": "delete"}).status_code == 200
    assert client.get("/worklist").status_code == client.get("/jobs").status_code == 200
