"""What goes wrong, as a page for people and as JSON for programs. Every failure is seen; none leaves a traceback."""

from __future__ import annotations

import errno
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.files import can_write
from headwater.remedies.decisions import marks_of
from headwater.runs import Run
from headwater.web.look import environment
from headwater.web.worker import BusyError

log = logging.getLogger(__name__)

REFUSED: dict[int | str, dict[str, Any]] = {
    409: {"description": "What was asked does not go with what is there, such as an index that was not built"},
    422: {"description": "What is wrong, and where"},
    503: {"description": "Too many questions at once; Retry-After says when to come again"},
}
"""How a route of the API may refuse, for its description."""


WRITABLE = (
    "Marks and jobs are kept in the run's folder: serve a copy that can be written, free some space, or let the "
    "server's user write there. Everything else works as it is."
)
_NOT_WRITTEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}

_TITLES = {
    401: "The token, please",
    404: "There is no such page",
    409: "Not with what is there",
    422: "That cannot be done",
    503: "One moment",
}


def log_fault(what: str, error: BaseException) -> None:
    """Tell the terminal of a fault of our own that no page will tell; a user's mistake is none."""
    known = HeadwaterError | BusyError | HTTPException | RequestValidationError
    if not isinstance(error, known) and getattr(error, "errno", None) not in _NOT_WRITTEN:
        log.error("%s: nobody waited for the answer", what, exc_info=error)


def refusal(scope: Scope, status: int, message: str, **more: Any) -> Response:
    """Make the answer to a request that failed: JSON under /api, else a page. `more` goes into the JSON."""
    accepts = Headers(scope=scope).get("accept", "")
    if scope["path"].startswith("/api") or "text/html" not in accepts:
        return JSONResponse({"error": message, **more}, status_code=status)
    title = _TITLES.get(status, HTTPStatus(status).phrase)
    workbench = None if status == 401 or "app" not in scope else getattr(scope["app"].state, "workbench", None)
    run = None if workbench is None else workbench.index.run
    page = environment().get_template("error.html.j2")
    return Response(
        page.render(status=status, title=title, message=message, asks_token=status == 401, run=run),
        status_code=status,
        media_type="text/html; charset=utf-8",
    )


def _can_write(run: Run) -> bool:
    """Whether marks and jobs of a run can be written."""
    marks = marks_of(run).path
    folder = marks.parent if marks.parent.exists() else run.folder
    return can_write(folder) and (can_write(marks) or not marks.exists())


def add_handlers(app: FastAPI) -> None:
    """Answer a user's mistake with 422, what is not there with 404, overload with 503."""
    from headwater.web.guard import TooLargeError

    @app.exception_handler(HeadwaterError)
    async def _mistake(request: Request, error: HeadwaterError) -> Response:
        status = 422 if isinstance(error, DataError | UsageError) else 409
        told = str(error)
        if request.method != "GET" and not _can_write(request.app.state.workbench.index.run):
            told = f"{told} {WRITABLE}"
        return refusal(request.scope, status, told)

    @app.exception_handler(BusyError)
    async def _busy(request: Request, error: BusyError) -> Response:
        response = refusal(request.scope, 503, str(error), retry_after=error.retry_after)
        response.headers["Retry-After"] = str(error.retry_after)
        return response

    @app.exception_handler(OSError)
    async def _disk(request: Request, error: OSError) -> Response:
        if error.errno not in _NOT_WRITTEN:
            return await _ours(request, error)
        told = f"{error.filename or 'the run folder'}: {error.strerror}."
        return refusal(request.scope, 409, told if request.method == "GET" else f"{told} {WRITABLE}")

    @app.exception_handler(TooLargeError)
    async def _large(request: Request, error: TooLargeError) -> Response:
        return refusal(request.scope, 413, "The request is too large.")

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return refusal(request.scope, 422, f"{where}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def _known(request: Request, error: HTTPException) -> Response:
        detail = error.detail if isinstance(error.detail, dict) else {"error": str(error.detail)}
        message = str(detail.pop("error", HTTPStatus(error.status_code).phrase))
        response = refusal(request.scope, error.status_code, message, **detail)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def _ours(request: Request, error: Exception) -> Response:
        log.exception("%s %s", request.method, request.url.path)
        return refusal(request.scope, 500, f"A fault of Headwater's own ({type(error).__name__}): see the terminal.")
