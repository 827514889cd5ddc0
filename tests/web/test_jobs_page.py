"""Jobs from the workbench: the cost first, a real repair retrained and proved, cancelled, seen after a restart."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import builders
import headwater as hw
from cli.conftest import TRAIN, headwater, write_rows
from headwater.engines.jobs import Jobs
from headwater.remedies.patch import FILE
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


def wait(done: Callable[[], Any], patience: float = PATIENCE) -> Any:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = done()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it took too long")


def mark(client: TestClient, rows: list[int]) -> None:
    for row in rows:
        assert client.put(f"/api/marks/{row}", json={"action": "delete"}).status_code == 200


def ended(client: TestClient, number: int, patience: float = PATIENCE) -> Any:
    def over() -> Any:
        job = client.get(f"/api/jobs/{number}").json()
        return job if job["state"] not in ("queued", "running") else None

    return wait(over, patience)


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


def test_an_audit_of_sources_asks_for_a_column_of_the_corpus(
    tmp_path: Path, client_of: Callable[[Path], TestClient]
) -> None:
    rows = [{**row, "origin": f"paper {at % 2}"} for at, row in enumerate(builders.rows(60, seed=1))]
    folder = trained(tmp_path, rows)
    client = client_of(folder)
    assert "<option>sources</option>" in client.get("/jobs?kind=audit").text
    assert '<option value="origin">' in client.get("/jobs?kind=audit").text
    for wrong in ({"what": "sources"}, {"what": "sources", "column": "text"}, {"what": "poison", "column": "origin"}):
        refused = client.post("/api/jobs/cost", json={"kind": "audit", **wrong})
        assert refused.status_code == 422 and "column" in refused.json()["error"], wrong
        assert client.post("/api/jobs", json={"kind": "audit", **wrong}).status_code == 422
    job = client.post("/api/jobs", json={"kind": "audit", "what": "sources", "column": "origin", "budget": 1}).json()
    over = ended(client, job["number"])
    assert over["state"] == "done", over["log"]
    found = json.loads((folder / "audit" / "sources" / "worklist.json").read_text())
    assert {each["source"] for each in found["figures"]["sources"]} == {"paper 0", "paper 1"}


def test_a_corpus_of_texts_and_labels_alone_has_no_sources_to_audit(
    run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    client = client_of(run)
    assert "sources" not in client.get("/jobs?kind=audit").text
    refused = client.post("/api/jobs", json={"kind": "audit", "what": "sources", "column": "origin"})
    assert refused.status_code == 422 and "no column beside" in refused.json()["error"]


def test_a_wrong_answer_is_patched_into_a_run_of_its_own(run: Path, client_of: Callable[[Path], TestClient]) -> None:
    client = client_of(run)
    wrong = client.get("/api/predictions?which=wrong").json()["rows"][0]["row"]
    page = client.get(f"/why?row={wrong}").text
    assert f"/jobs?kind=patch&amp;row={wrong}" in page
    assert f"value={wrong}" in client.get(f"/jobs?kind=patch&row={wrong}").text
    assert client.post("/api/jobs", json={"kind": "patch", "rows": [9999]}).status_code == 422
    assert client.post("/api/jobs", json={"kind": "patch", "rows": []}).status_code == 422
    wanted = {"kind": "patch", "rows": [wrong]}
    assert "mend 1 answer" in client.post("/api/jobs/cost", json=wanted).json()["does"]
    job = ended(client, client.post("/api/jobs", json=wanted).json()["number"])
    assert job["state"] == "done", job["log"]
    out = Path(job["facts"]["out"])
    assert out == run.with_name("run-patched-1") and (out / "patch.json").is_file()
    told = client.get("/jobs?kind=patch").text
    assert "1 answers fixed" in told and "Other held-out rows:" in told and "the next training loses this" in told


def test_a_damaged_patch_is_told_beside_its_job_and_hides_no_other(
    run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    jobs, out = Jobs(run / "headwater" / "jobs"), run.with_name("run-patched-1")
    out.mkdir()
    (out / FILE).write_text('{"fixed": 1')
    for kind in ("audit", "patch"):
        job = jobs.start(jobs.prepare(), kind, f"a job of kind {kind}", ["true"], {"out": str(out)})
        wait(lambda number=job.number: jobs.get(number).over)
    page = client_of(run).get("/jobs")
    assert page.status_code == 200 and "a job of kind audit" in page.text and "not valid JSON" in page.text


def test_a_retraining_that_was_cancelled_goes_on_in_its_place(
    run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    client = client_of(run)
    mark(client, [2, 5])
    first = client.post("/api/jobs", json={"kind": "fix", "seeds": 1}).json()
    client.post(f"/api/jobs/{first['number']}/cancel")
    ended(client, first["number"])
    again = client.post("/api/jobs", json={"kind": "fix", "seeds": 1}).json()
    assert again["facts"]["out"] == first["facts"]["out"]
    client.post(f"/api/jobs/{again['number']}/cancel")
    mark(client, [7])  # another plan is another run
    other = client.post("/api/jobs", json={"kind": "fix", "seeds": 1}).json()
    assert other["facts"]["out"] != first["facts"]["out"]


@pytest.mark.slow
def test_a_retraining_over_its_budget_is_of_a_stratified_subset_and_the_proof_page_says_so(
    tmp_path: Path, client_of: Callable[[Path], TestClient]
) -> None:
    folder = trained(tmp_path, builders.rows(120, seed=1), epochs=200)
    client = client_of(folder)
    for row in range(6):
        other = next(name for name in ("good", "bad") if name != Run.open(folder).corpus[row].label)
        client.put(f"/api/marks/{row}", json={"action": "relabel", "label": other})
    cost = client.post("/api/jobs/cost", json={"kind": "fix", "seeds": 1}).json()
    each = cost["seconds"] / 5  # four arms, and the repaired run itself
    seconds = 3 * each + 10  # enough for the repaired run, and for half of the arms
    for _ in range(5):  # on a machine that is busy the time may be over meanwhile: started again, it goes on
        job = client.post("/api/jobs", json={"kind": "fix", "seeds": 1, "budget": seconds / 60}).json()
        over = ended(client, job["number"], PATIENCE + seconds)
        if over["state"] == "done" or "What is finished is kept" not in over["log"]:
            break
    assert over["state"] == "done", over["log"]
    assert Path(over["facts"]["out"]) == folder.with_name("run-fixed-1")
    told = client.get(f"/proof/{job['number']}").text
    assert "every arm is trained on a stratified subset" in told and "of 120 rows" in told
    assert "On a subset of the rows:" in told


def trained(folder: Path, rows: list[dict[str, Any]], epochs: int = 2) -> Path:
    """A run on these rows, with evaluation rows and an index."""
    train = write_rows(folder / "train.jsonl", rows)
    held = write_rows(folder / "held.jsonl", builders.rows(80, seed=2))
    options = [*TRAIN, "--epochs", epochs, "--out", folder / "run"]
    assert headwater("train", "--data", train, "--eval", held, *options).code == 0
    assert headwater("index", folder / "run").code == 0
    return folder / "run"
