"""Slow answers over a real server: handed out once to who comes back, called off for who does not, held by nobody."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

import headwater as hw
from headwater.errors import DataError
from headwater.web.app import make_api
from headwater.web.state import Workbench
from headwater.web.waiting import PatientRoute, Watches
from web.conftest import busy, serving, until

PAGE = {"Accept": "text/html"}


@dataclass
class Slow:
    """An application with a page of its own that takes its time each time, `fails` by a fault or a mistake."""

    app: FastAPI
    client: httpx.Client
    gate: threading.Event = field(default_factory=threading.Event)
    made: list[int] = field(default_factory=list)

    @property
    def watches(self) -> Watches:
        found: Watches = self.app.state.watches
        return found

    @property
    def bench(self) -> Workbench:
        found: Workbench = self.app.state.workbench
        return found

    def page(self, path: str) -> httpx.Response:
        return self.client.get(path, headers=PAGE)


@pytest.fixture
def slow(copied_run: Path) -> Iterator[Slow]:
    index = hw.Index.open(copied_run / "index")
    app = make_api(Workbench(index, index.run.eval_corpus))
    router = APIRouter(route_class=PatientRoute)

    @router.get("/slow", response_class=HTMLResponse)
    async def page(fails: Annotated[str, Query()] = "") -> HTMLResponse:
        number = len(made.made)
        made.made.append(number)
        await run_in_threadpool(made.gate.wait)
        if fails:
            raise {"fault": ZeroDivisionError("a fault"), "mistake": DataError("row 7: a mistake.")}[fails]
        return HTMLResponse(f"<p>answer {number}</p>")

    app.include_router(router)
    with serving(app) as base, httpx.Client(base_url=base, timeout=60) as client:
        made = Slow(app, client)
        yield made
        made.gate.set()


def watch_of(page: httpx.Response) -> str:
    assert page.status_code == 202
    (name,) = re.findall(r'data-watch="([^"]*)"', page.text)
    return str(name)


def test_a_page_that_takes_long_every_time_is_made_once_and_handed_out_once(slow: Slow) -> None:
    name = watch_of(slow.page("/slow?fails="))
    again = slow.page(f"/slow?fails=&watch={name}")  # without scripts: who is too early waits on, for the same
    assert watch_of(again) == name and f'content="2; url=/slow?fails=&amp;watch={name}"' in again.text
    slow.gate.set()
    until(lambda: slow.client.get(f"/api/work/{name}").json()["state"] == "done")
    answer = slow.page(f"/slow?fails=&watch={name}")
    assert (answer.status_code, answer.text, slow.made) == (200, "<p>answer 0</p>", [0])
    assert len(slow.watches) == 0
    late = slow.page(f"/slow?watch={name}&fails=")
    assert (late.status_code, late.headers["location"]) == (303, "/slow?fails=")
    assert slow.page("/slow").text == "<p>answer 1</p>"


def test_a_page_that_failed_meanwhile_says_so_to_who_comes_back(slow: Slow) -> None:
    name = watch_of(slow.page("/slow?fails=mistake"))
    slow.gate.set()
    until(lambda: slow.page(f"/slow?fails=mistake&watch={name}").status_code == 422)
    assert slow.made == [0] and len(slow.watches) == 0


def test_a_script_that_waits_for_a_page_hears_of_its_failure(slow: Slow) -> None:
    name = watch_of(slow.page("/slow?fails=mistake"))
    slow.gate.set()
    told = until(lambda: (found := slow.client.get(f"/api/work/{name}")).status_code == 422 and found.json())
    assert told == {"error": "row 7: a mistake."} and len(slow.watches) == 0


@pytest.mark.parametrize("fails", ["fault", "mistake"])
def test_a_fault_that_nobody_waited_for_is_logged_and_a_mistake_is_not(
    slow: Slow, fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    slow.watches.alone = 1.0
    watch_of(slow.page(f"/slow?fails={fails}"))
    slow.gate.set()
    until(lambda: len(slow.watches) == 0)
    slow.page("/health")  # what the loop had to do after that is done
    told = [record for record in caplog.records if "nobody waited" in record.getMessage()]
    assert [record.getMessage().split(":")[0] for record in told] == (["GET /slow"] if fails == "fault" else [])
    assert all(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in told)


def test_questions_whose_askers_went_away_leave_the_line(slow: Slow) -> None:
    host, port = slow.client.base_url.host, slow.client.base_url.port
    worker = slow.bench.worker
    slow.client.get("/api/why?row=9")  # from now on the methods are known: each question is one call
    with busy(slow.bench):
        asked = []
        for row in range(3):
            asked.append(socket.create_connection((host, port)))
            told = f"GET /api/why?row={row} HTTP/1.1\r\nHost: {host}:{port}\r\nHeadwater-Watch: watch-{row}\r\n\r\n"
            asked[-1].sendall(told.encode())
        until(lambda: worker.waiting == 4)
        assert slow.client.get("/api/work/watch-1").json()["state"] == "waiting"
        asked[1].close()
        until(lambda: worker.waiting == 3)
        assert slow.client.get("/api/work/watch-1").json()["state"] == "unknown"
        for each in asked:
            each.close()
        until(lambda: worker.waiting == 1)
    assert len(slow.watches) == 0


def test_a_page_leaves_the_line_when_nobody_asks_about_it_and_stays_while_somebody_does(slow: Slow) -> None:
    slow.watches.alone = 0.5
    worker = slow.bench.worker
    with busy(slow.bench):
        name = watch_of(slow.page("/why?text=warm+rain"))
        end = time.monotonic() + 3 * slow.watches.alone
        while time.monotonic() < end:
            assert slow.client.get(f"/api/work/{name}").json()["state"] == "waiting"
            time.sleep(0.05)
        assert worker.waiting == 2
        until(lambda: worker.waiting == 1)
        assert len(slow.watches) == 0


def test_what_had_begun_is_kept_though_who_asked_went_away(slow: Slow) -> None:
    host, port = slow.client.base_url.host, slow.client.base_url.port
    begun, gate = threading.Event(), threading.Event()
    router = APIRouter(route_class=PatientRoute)

    def make() -> int:
        begun.set()
        gate.wait(60)
        return 7

    @router.get("/api/long")
    async def long() -> int:
        return await slow.bench.once("long", make)

    slow.app.include_router(router)
    gone = socket.create_connection((host, port))
    gone.sendall(f"GET /api/long HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    begun.wait(60)
    gone.close()
    gate.set()
    until(lambda: slow.bench.knows("long"))


def test_what_is_answered_is_held_by_no_watch(slow: Slow) -> None:
    for path in ("/api/why?row=5", "/api/why/removal?row=5&marked=1", "/api/why?row=99999"):
        slow.client.get(path, headers={"Headwater-Watch": "a-name"})
        assert slow.client.get("/api/work/a-name").json()["state"] == "unknown"
    assert len(slow.watches) == 0


def test_the_place_of_a_page_is_lit_while_it_is_waited_for(slow: Slow) -> None:
    with busy(slow.bench):
        drawn: Callable[[str], Any] = lambda path: re.findall(r"<h1>(.*?)</h1>", slow.page(path).text)  # noqa: E731
        assert drawn("/word?word=bread") == ["Words"] and drawn("/why?text=dry+bread") == ["Why?"]
        assert drawn("/slow") == ["One moment"]
