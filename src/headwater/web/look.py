"""The templates, styles and scripts of the workbench, and the frame around each page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import xxhash
from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse

from headwater.attribution.render import TEMPLATES as ANSWERS
from headwater.attribution.render import environment_of, headwater_version
from headwater.remedies.page import FILTERS
from headwater.remedies.page import PAGES as PROOFS

HERE = Path(__file__).parent
KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Place:
    """A page that the top bar leads to. `also`: paths of pages that belong to it."""

    name: str
    path: str
    also: tuple[str, ...] = ()


PLACES = (
    Place("Predictions", "/predictions"),
    Place("Why?", "/why"),
    Place("Corpus", "/corpus"),
    Place("Words", "/words", ("/word",)),
    Place("Worklist", "/worklist"),
    Place("Jobs", "/jobs", ("/proof",)),
)


def place_of(path: str) -> Place | None:
    """Return the place in the top bar that a page belongs to."""
    first = "/" + path.strip("/").partition("/")[0]
    return next((place for place in PLACES if first in (place.path, *place.also)), None)


@cache
def environment() -> Environment:
    """Return the workbench's templates, those of answers beside them. `{{ asset("base.css") }}` links a file."""
    made = environment_of(HERE / "templates", ANSWERS, PROOFS)
    made.filters |= FILTERS
    made.globals.update(asset=asset, places=PLACES, version=headwater_version(), here=None, run=None)
    return made


@cache
def assets() -> Mapping[str, Path]:
    """Return every style and script that may be asked for, by name. Nothing else of the disk can be."""
    folders = (ANSWERS, PROOFS, HERE / "static")
    found = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix in KINDS]
    made = {path.name: path for path in found}
    if len(made) < len(found):
        raise ValueError("two styles or scripts of one name: one would hide the other")
    return made


def asset(name: str) -> str:
    """Return the URL of a style or script. A style's changes with its content, so that browsers may keep it; a script
    has but one, since a module that others import under two would run twice."""
    return f"/static/{name}" if name.endswith(".js") else f"/static/{name}?{_digest(name)}"


@cache
def _digest(name: str) -> str:
    return xxhash.xxh3_64_hexdigest(assets()[name].read_bytes())


def page(
    request: Request, template: str, *, here: str | None = None, status: int = 200, **context: Any
) -> HTMLResponse:
    """Draw a template that extends `base.html.j2`. `here`: the path of the place in the top bar that is lit."""
    run = request.app.state.workbench.index.run
    drawn = environment().get_template(template).render(request=request, here=here, run=run, **context)
    return HTMLResponse(drawn, status_code=status)
