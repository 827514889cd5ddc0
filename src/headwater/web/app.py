"""The application: the pages, the API under /api, their documentation under /api/docs, and the guard around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import FileResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from headwater.attribution.render import headwater_version
from headwater.web.errors import add_handlers
from headwater.web.guard import Guard
from headwater.web.look import KINDS, assets
from headwater.web.routes import ROUTERS
from headwater.web.state import Workbench
from headwater.web.waiting import Watches


def create_app(workbench: Workbench, *, token: str, hosts: Collection[str] = ()) -> ASGIApp:
    """Make the ASGI application of a workbench. Every request must bring `token`; see `headwater.web.guard`."""
    app = make_api(workbench)
    return Guard(app, token, hosts)


def make_api(workbench: Workbench) -> FastAPI:
    """Make the application without its guard: what is documented, and tested for wrong input."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        workbench.worker.close()

    app = FastAPI(
        title="Headwater",
        version=headwater_version(),
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page loads scripts from a foreign network
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.workbench = workbench
    app.state.watches = Watches()
    add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("/predictions", status_code=307)

    @app.get("/health", include_in_schema=False)
    async def health() -> dict[str, bool]:
        return {"alive": True}

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> FileResponse:
        path = assets().get(name)
        if path is None:
            raise HTTPException(404, f"There is no file {name!r}.")
        kept = "no-cache" if path.suffix == ".js" else "public, max-age=31536000, immutable"  # see `look.asset`
        headers = {"Cache-Control": kept}
        return FileResponse(path, media_type=KINDS[path.suffix], headers=headers)

    return app
