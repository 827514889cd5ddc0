"""What a page is waiting for: nothing slow leaves a blank tab, and every stage is told by the floor that is at it.

A page that is not there within a moment is answered by one that says what is being done, and comes back for it. A
script names its request (`Headwater-Watch`), and asks under that name how far it is.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute

from headwater.web.look import PLACES, page
from headwater.web.worker import WATCH, Watch, Worker

PATIENCE = 0.7  # seconds after which a browser is shown what it waits for
_KEPT = 256  # watches

_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")

State = Literal["waiting", "working", "done", "unknown"]


@dataclass
class Watched:
    """A request in flight, or one that is over."""

    watch: Watch
    answer: asyncio.Future[Response] | None = None
    """Of a page that comes back: what it will get."""
    over: bool = False


class Watches:
    """Who waits, by name; the oldest are forgotten."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, Watched] = OrderedDict()

    def add(self, name: str, watched: Watched) -> None:
        """Keep one."""
        self._found[name] = watched
        while len(self._found) > _KEPT:
            self._found.popitem(last=False)

    def get(self, name: str) -> Watched | None:
        """Return one, if it is known."""
        return self._found.get(name)


class PatientRoute(APIRoute):
    """A route whose requests can be watched; of pages also one that answers in time, if only with a stage."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler around FastAPI's own."""
        handler = super().get_route_handler()
        shows_pages = self.response_class is HTMLResponse

        async def patient(request: Request) -> Response:
            if shows_pages and request.method == "GET" and "text/html" in request.headers.get("accept", ""):
                return await _in_time(request, handler)
            name = request.headers.get("headwater-watch", "")
            if not _NAME.fullmatch(name):
                return await handler(request)
            watched = Watched(Watch())
            watches_of(request).add(name, watched)
            token = WATCH.set(watched.watch)
            try:
                return await handler(request)
            finally:
                WATCH.reset(token)
                watched.over = True

        return patient


router = APIRouter()


@router.get("/api/work/{name}", tags=["work"])
async def work(request: Request, name: Annotated[str, Path(pattern=f"^{_NAME.pattern}$")]) -> Mapping[str, Any]:
    """How far a request is that was named by the header Headwater-Watch: its place in the line, what is being done.

    Of a page that could not wait the failure, if it failed.
    """
    watched = watches_of(request).get(name)
    if watched is None:
        return _told("unknown", 0.0)
    seconds = monotonic() - watched.watch.since
    if watched.answer is not None and watched.answer.done():
        watched.answer.result()
        return _told("done", seconds)
    if watched.over:
        return _told("done", seconds)
    call = watched.watch.call
    if call is None:
        return _told("working", seconds)
    worker: Worker = request.app.state.workbench.worker
    before = worker.before(call)
    stage = None if call.stage is None else asdict(call.stage)
    return _told("waiting" if not call.begun else "working", seconds, before, stage)


def watches_of(request: Request) -> Watches:
    """Return the watches of the application."""
    return cast(Watches, request.app.state.watches)


async def _in_time(request: Request, handler: Callable[[Request], Coroutine[Any, Any, Response]]) -> Response:
    watched = Watched(Watch())
    token = WATCH.set(watched.watch)
    task = asyncio.ensure_future(handler(request))  # it takes the watch with it
    WATCH.reset(token)
    done, _ = await asyncio.wait({task}, timeout=PATIENCE)
    if done:
        return task.result()
    watched.answer = task
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # whoever comes back hears of it
    name = secrets.token_hex(8)
    watches_of(request).add(name, watched)
    place = next((each for each in PLACES if request.url.path.startswith(each.path)), None)
    return page(
        request, "waiting.html.j2", here=None if place is None else place.path, status=202, watch=name, place=place
    )


def _told(state: State, seconds: float, before: int = 0, stage: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    return {"state": state, "seconds": round(seconds, 1), "before": before, "stage": stage}
