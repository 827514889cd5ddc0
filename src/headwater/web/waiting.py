"""What a page is waiting for: nothing slow leaves a blank tab, and every stage is told by the floor that is at it.

A page that is not there within a moment is answered by one that says what is being done, and that comes back under the
name of its watch (`?watch=NAME`): it gets the answer, which is handed out once. A script names its request
(`Headwater-Watch`), and asks under that name how far it is. Who goes away leaves the worker's line.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute

from headwater.web.errors import log_fault
from headwater.web.look import page, place_of
from headwater.web.worker import WATCH, Watch, Worker

PATIENCE = 0.7  # seconds after which a browser is shown what it waits for
ALONE = 15.0  # seconds after which a page that nobody asks about is called off; a hidden tab still asks once a second
_GONE = 499  # what nobody hears

_OURS = re.compile(r"(?:^|&)watch=[^&]*")  # of a query
_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")

State = Literal["waiting", "working", "done", "unknown"]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Answer = asyncio.Task[Response]


@dataclass
class Watched:
    """A request in flight, or a page that waits to be fetched."""

    watch: Watch
    page: Answer | None = None
    """Of a page that comes back: what it will get."""
    seen: float = field(default_factory=monotonic)
    """When somebody asked about it."""


class Watches:
    """Who waits, by name: requests while in flight; pages until they are fetched, or nobody asks about them."""

    def __init__(self, alone: float = ALONE) -> None:
        self.alone = alone
        self._found: dict[str, Watched] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, name: str, watched: Watched) -> None:
        """Keep one, until it is dropped or, of a page, left alone."""
        self._found[name], watched.seen = watched, monotonic()
        if watched.page is not None:
            self._look_after(name, watched.page)

    def get(self, name: str) -> Watched | None:
        """Return one, if it is known; it was asked about."""
        watched = self._found.get(name)
        if watched is not None:
            watched.seen = monotonic()
        return watched

    def drop(self, name: str) -> None:
        """Forget one, and all that hangs on it."""
        self._found.pop(name, None)

    def _look_after(self, name: str, answer: Answer) -> None:
        watched = self._found.get(name)
        if watched is None or watched.page is not answer:
            return
        left = watched.seen + self.alone - monotonic()
        if left > 0:
            asyncio.get_running_loop().call_later(left, self._look_after, name, answer)
        else:
            self.drop(name)
            _call_off(answer)


class PatientRoute(APIRoute):
    """A route whose questions can be watched, and called off; of pages also one that answers in time, if only with a
    stage. What changes something is done, whether or not somebody still waits for it."""

    def get_route_handler(self) -> Handler:
        """Return the handler around FastAPI's own."""
        handler = super().get_route_handler()
        shows_pages = self.response_class is HTMLResponse

        async def patient(request: Request) -> Response:
            if request.method != "GET":
                return await handler(request)
            if shows_pages and "text/html" in request.headers.get("accept", ""):
                return await _in_time(request, handler)
            return await _while_heard(request, handler)

        return patient


router = APIRouter()


@router.get("/api/work/{name}", tags=["work"])
async def work(request: Request, name: Annotated[str, Path(pattern=f"^{_NAME.pattern}$")]) -> Mapping[str, Any]:
    """How far a request is that was named by the header Headwater-Watch: its place in the line, what is being done.

    One that was answered is not known any more. Of a page that could not wait the failure, once, if it failed.
    """
    watches = watches_of(request)
    watched = watches.get(name)
    if watched is None:
        return _told("unknown", 0.0)
    seconds = monotonic() - watched.watch.since
    if watched.page is not None and watched.page.done():
        if watched.page.cancelled() or watched.page.exception() is not None:
            watches.drop(name)
            watched.page.result()
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


async def _while_heard(request: Request, handler: Handler) -> Response:
    """Answer a script, as long as it is there."""
    watch, name = Watch(), request.headers.get("headwater-watch", "")
    watches, named = watches_of(request), _NAME.fullmatch(name) is not None
    if named:
        watches.add(name, Watched(watch))
    try:
        answer = _begin(request, handler, watch)
        return answer.result() if await _came(request, answer) else Response(status_code=_GONE)
    finally:
        if named:
            watches.drop(name)


async def _in_time(request: Request, handler: Handler) -> Response:
    """Answer a browser by its page, or by one that waits for it; who comes back gets what the first has begun."""
    watches, name = watches_of(request), request.query_params.get("watch")
    query = _OURS.sub("", request.url.query).lstrip("&")
    address = request.url.path + (f"?{query}" if query else "")
    if name is None:
        watched = Watched(Watch())
        watched.page = _begin(request, handler, watched.watch)
    else:
        known = watches.get(name)
        if known is None or known.page is None:  # fetched already, or left alone
            return RedirectResponse(address, status_code=303)
        watched = known
    assert watched.page is not None
    if await _came(request, watched.page, PATIENCE):
        watches.drop(name or "")
        return watched.page.result()
    if name is None:
        name = secrets.token_hex(8)
        watches.add(name, watched)
    place = place_of(request.url.path)
    here = None if place is None else place.path
    back = f"{address}{'&' if query else '?'}watch={name}"
    return page(request, "waiting.html.j2", here=here, status=202, watch=name, place=place, address=address, back=back)


def _begin(request: Request, handler: Handler, watch: Watch) -> Answer:
    token = WATCH.set(watch)
    try:
        return asyncio.create_task(handler(request), name=f"{request.method} {request.url.path}")  # it takes the watch
    finally:
        WATCH.reset(token)


async def _came(request: Request, answer: Answer, patience: float | None = None) -> bool:
    """Wait for an answer, and say whether it came in time. Where who asked goes away before, it is called off."""
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({answer, gone}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not answer.done():
            _call_off(answer)
            gone.result()  # a body that is too large
        return answer.done()
    except asyncio.CancelledError:
        _call_off(answer)
        raise
    finally:
        gone.cancel()


async def _gone(request: Request) -> None:
    """Return when who asked has gone away: servers tell, and leave what is to be done about it to us."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _call_off(answer: Answer) -> None:
    """End an answer that nobody will hear; what it waits for leaves the line. A fault of our own is logged."""
    answer.cancel()
    answer.add_done_callback(_unheard)


def _unheard(answer: Answer) -> None:
    error = None if answer.cancelled() else answer.exception()
    if error is not None:
        log_fault(answer.get_name(), error)


def _told(state: State, seconds: float, before: int = 0, stage: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    return {"state": state, "seconds": round(seconds, 1), "before": before, "stage": stage}
