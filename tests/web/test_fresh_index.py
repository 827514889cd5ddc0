"""An index that changes on disk while the workbench serves it is opened again; no answer is of both."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from fastapi.testclient import TestClient

import headwater as hw
from cli.conftest import headwater
from headwater.web.state import Workbench


def test_a_method_that_was_indexed_meanwhile_answers_at_once(
    copied_run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    client = client_of(copied_run)
    assert client.get("/api/why?row=1&method=representation-cosine").status_code == 409
    assert "representation-cosine</option>" not in client.get("/why?row=1").text
    called = headwater("index", copied_run, "--method", "representation-cosine")
    assert called.code == 0, called.stderr
    answer = client.get("/api/why?row=1&method=representation-cosine")
    assert answer.status_code == 200 and answer.json()["method"] == "representation-cosine"
    assert "representation-cosine</option>" in client.get("/why?row=1").text


def test_an_index_that_grew_drops_the_kept_answers_and_shows_the_new_rows(
    copied_run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    client = client_of(copied_run)
    before = client.get("/api/why?row=2&k=100").json()
    assert client.get("/api/corpus").json()["count"] == 60
    index = hw.Index.open(copied_run / "index")
    rows = [{"text": row.text, "label": row.label} for row in index.corpus]
    asked = index.run.eval_corpus[2]
    said = before["queries"][0]["label"]
    hw.Index.build(index.run, corpus=[*rows, {"text": asked.text, "label": said}], show=False)
    after = client.get("/api/why?row=2&k=100").json()
    shown = [part["example"] for part in after["queries"][0]["proponents"]]
    assert 60 in shown and after != before
    truth = hw.Index.open(copied_run / "index").query(index.run.eval_corpus.take([2]), None, 100, show=False)
    assert shown == [part.example.row for part in truth[0].proponents]
    assert client.get("/api/corpus").json()["count"] == 61
    for page in ("/corpus/60", "/words", "/api/why/rail?row=2"):
        assert client.get(page).status_code == 200


def test_an_answer_that_has_begun_is_of_the_index_that_it_began_with(copied_run: Path) -> None:
    index = hw.Index.open(copied_run / "index")
    bench = Workbench(index, index.run.eval_corpus)
    gate = threading.Event()

    async def meanwhile() -> tuple[Workbench, int]:
        first = asyncio.create_task(bench.once("rows", lambda: gate.wait() and len(bench.index)))
        await asyncio.sleep(0.01)
        rows = [{"text": row.text, "label": row.label} for row in index.corpus]
        await asyncio.to_thread(hw.Index.build, index.run, corpus=[*rows, *rows[:3]], show=False)
        opening = asyncio.create_task(bench.fresh())
        also = asyncio.create_task(bench.fresh())
        after = await opening  # it does not wait for the answer
        assert bench.worker.waiting == 1 and not gate.is_set()
        gate.set()
        assert (await also).index is after.index
        assert await after.once("rows", lambda: len(after.index)) == 63
        return after, await first

    after, rows = asyncio.run(meanwhile())
    assert rows == len(bench.index) == 60 and len(after.index) == 63
    bench.worker.close()


def test_models_stay_loaded_when_the_index_is_opened_again(copied_run: Path) -> None:
    index = hw.Index.open(copied_run / "index")
    index.query(["warm bread"], show=False)
    assert index.is_current()
    hw.Index.build(index.run, method="representation-cosine", show=False)
    assert not index.is_current()
    again = index.reopened()
    assert again.is_current()
    model = index.members[0].models.load(index.run.checkpoints[-1])
    assert again.members[0].models.load(index.run.checkpoints[-1]) is model


def test_an_index_that_cannot_be_opened_is_told_and_comes_back_by_itself(
    copied_run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    client = client_of(copied_run)
    manifest = copied_run / "index" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole.replace(b'"dtype"', b'"detype"'))
    refused = client.get("/api/why?row=1")
    assert refused.status_code == 409 and "damaged manifest" in refused.json()["error"]
    manifest.write_bytes(whole)
    assert client.get("/api/why?row=1").status_code == 200
