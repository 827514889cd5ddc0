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
from headwater.web.state import Workbench
from web.conftest import client_for

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
        assert client.get("/api/marks").json() == {"version": 0, "marks": []}


@contextmanager
def read_only(run: Path) -> Iterator[Path]:
    """A copy that this process may read only; root steps down to a user without rights."""
    place = Path(tempfile.mkdtemp())
    try:
        copy = Path(shutil.copytree(run, place / "run"))
        place.chmod(0o755)
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
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
