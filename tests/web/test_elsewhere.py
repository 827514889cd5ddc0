"""Where a workbench writes: marks and jobs into the run, wherever its index lies; one that is read-only says so."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import headwater as hw
from headwater.attribution.kept_tables import FOLDER
from headwater.engines.jobs import Jobs
from headwater.remedies.decisions import decide, marks_of
from headwater.web.state import Workbench
from web.conftest import client_for, until

NOBODY = 65534


@pytest.fixture
def over() -> Iterator[Callable[[hw.Index], TestClient]]:
    """Make a client of a workbench over an index."""
    made: list[Workbench] = []

    def make(index: hw.Index) -> TestClient:
        made.append(Workbench(index, index.run.eval_corpus))
        return client_for(made[-1])

    yield make
    for workbench in made:
        workbench.worker.close()


def test_an_index_at_a_url_is_marked_and_audited_in_its_run(
    copied_run: Path, over: Callable[[hw.Index], TestClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "mirrors"))
    shutil.rmtree(copied_run / "index")
    hw.Index.build(hw.Run.open(copied_run), "memory://workbench/index", show=False)
    index = hw.Index.open("memory://workbench/index")
    assert tmp_path / "mirrors" in index.folder.parents
    client = over(index)
    assert client.put("/api/marks/3", json={"action": "delete"}).status_code == 200
    assert (copied_run / "headwater" / "marks.sqlite").is_file()
    assert client.get("/words").status_code == 200 and (index.folder / FOLDER).is_dir()
    job = client.post("/api/jobs", json={"kind": "index", "method": "representation-cosine"}).json()
    assert job["command"][-2:] == ["--out", str(index.folder)]
    client.post(f"/api/jobs/{job['number']}/cancel")


def test_a_run_that_cannot_be_written_is_explained_and_marked_nowhere(
    copied_run: Path, over: Callable[[hw.Index], TestClient]
) -> None:
    run = hw.Run.open(copied_run)
    marks_of(run).write(decide(run, 5, "delete", status="accepted"), 0)  # as somebody did who could write
    with read_only(copied_run) as run:
        client = over(hw.Index.open(run / "index"))
        assert client.get("/api/why?row=1").status_code == 200
        for page in ("/predictions", "/corpus", "/words", "/worklist", "/jobs", "/why?row=1"):
            assert client.get(page).status_code == 200, page
        for refused in (
            client.put("/api/marks/3", json={"action": "delete"}),
            client.post("/api/jobs", json={"kind": "audit", "what": "duplicates"}),
        ):
            assert refused.status_code in (409, 422), refused.text
            assert str(run) in refused.json()["error"] and "can be written" in refused.json()["error"]
        assert [mark["row"] for mark in client.get("/api/marks").json()["marks"]] == [5]
        assert client.get("/api/why/removal?row=1").json()["rows"] == [5]
        assert '"row": 5' in client.get("/api/plan").text.replace('"row":5', '"row": 5')


def test_a_file_of_marks_that_cannot_be_written_says_how_it_could_be(
    copied_run: Path, over: Callable[[hw.Index], TestClient]
) -> None:
    run = hw.Run.open(copied_run)
    marks_of(run).write(decide(run, 5, "delete", status="accepted"), 0)
    with read_only(copied_run, but=("headwater",)) as copy:
        client = over(hw.Index.open(copy / "index"))
        refused = client.put("/api/marks/3", json={"action": "delete"})
        assert refused.status_code == 422 and "can be written" in refused.json()["error"]
        assert client.get("/api/marks").json()["marks"][0]["row"] == 5


def test_a_file_that_cannot_be_read_is_named_without_a_word_of_writing(
    copied_run: Path, over: Callable[[hw.Index], TestClient]
) -> None:
    log = copied_run / "headwater" / "jobs" / "1"
    jobs = Jobs(copied_run / "headwater" / "jobs")
    with jobs.preparing() as place:
        (place / "log.txt").write_text("told")
        jobs.start(place, "audit", "a job", ["true"])
    until(lambda: jobs.get(1).state == "done")
    with read_only(copied_run, hidden=(log / "log.txt").relative_to(copied_run)) as copy:
        refused = over(hw.Index.open(copy / "index")).get("/api/jobs/1")
        assert refused.status_code == 409 and "log.txt: Permission denied." in refused.json()["error"]
        assert "can be written" not in refused.json()["error"]


@contextmanager
def read_only(run: Path, *, but: tuple[str, ...] = (), hidden: Path | None = None) -> Iterator[Path]:
    """A copy that this process may read only, `but` for these folders, and without one file that is `hidden` from it;
    root steps down to a user without rights."""
    place = Path(tempfile.mkdtemp())
    try:
        copy = Path(shutil.copytree(run, place / "run"))
        place.chmod(0o755)
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        for name in but:
            (copy / name).chmod(0o777)
        if hidden is not None:
            (copy / hidden).chmod(0o000)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            yield copy
        finally:
            if root:
                os.seteuid(0)
            for path in copy.rglob("*"):
                if path.is_dir():
                    path.chmod(0o755)
            copy.chmod(0o755)
    finally:
        shutil.rmtree(place)
