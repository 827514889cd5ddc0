"""An answer as HTML: a self-contained page, a notebook fragment.

A page is one file: styles and script are inside, nothing is fetched, and a content security policy lets no other
script run. It reads without the script (words lit, long rows folded in <details>); the script adds hover, pins,
"all", tabs and keys. All text is escaped. Same input, same bytes: no time and no path is written unasked.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from headwater.attribution import pack
from headwater.attribution.numerals import plural
from headwater.attribution.overview_view import overview_view
from headwater.attribution.trial import trial_view
from headwater.attribution.view import Answer, Piece, View, clean, view

TEMPLATES = Path(__file__).parent / "templates"
REPORT_ROWS = 5  # rows a list, unless the caller says otherwise
MANY_ROWS = 100  # cards; a longer report keeps the strongest words only, so that it stays small enough to mail
WORDS_OF_MANY = 16  # words a text that "all" lights in such a report

# Characters that change how others are drawn, or are not drawn at all, and that no script needs: they are named on the
# page. Joiners (emoji, Persian) and the plain direction marks stay as they are.
_UNSEEN = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff]")


def render_page(
    answer: Answer,
    *,
    title: str,
    hide_training_text: bool = False,
    k: int | None = REPORT_ROWS,
    overview: Mapping[str, Any] | None = None,
    trial: Mapping[str, Any] | None = None,
    command: str | None = None,
    extra_html_sections: Sequence[str | Markup] | None = None,
) -> str:
    """Draw an answer (`Attributions.to_dict()`) as one self-contained HTML file.

    hide_training_text: show rows by number, id, class label and score, and lit words by position only. The file then
    holds no training text; the queries, and which of *their* words carry the push, stay readable.
    k: rows a list at most; None shows all that the answer holds. overview: `Overview.to_dict()` of all texts that were
    asked about, put before the answers. trial: see `headwater.attribution.trial`.
    command: what reproduces the page; shown at its foot. extra_html_sections: put before the footer; a str is escaped,
    a `markupsafe.Markup` is trusted as it is (scripts in it do not run).
    """
    shown = view(answer, k=k, hide_training_text=hide_training_text)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            view=shown,
            title=clean(title),
            overview=overview_view(clean(overview)) if overview else None,
            trial=trial_view(clean(trial)) if trial else None,
            command=clean(command or str(answer.get("command") or "")),
            extra=[
                section if isinstance(section, Markup) else escape(section) for section in extra_html_sections or ()
            ],
            style=_style("base.css", "words.css", "answer.css", "overview.css", "trial.css", "page.css"),
            script=_script("words.js", "answers.js", "page.js"),
            policy=_policy("words.js", "answers.js", "page.js"),
            version=headwater_version(),
            homes=_homes(shown),
            limit=None if sum(len(q.toward) + len(q.away) for q in shown.queries) <= MANY_ROWS else WORDS_OF_MANY,
        )
    )


def render_fragment(
    answer: Answer,
    *,
    hide_training_text: bool = False,
    k: int | None = None,
    trial: Mapping[str, Any] | None = None,
) -> str:
    """Draw an answer as a piece of HTML for a notebook: its styles touch nothing else, and it needs no script."""
    shown = view(answer, k=k, hide_training_text=hide_training_text)
    return (
        _environment()
        .get_template("fragment.html.j2")
        .render(
            view=shown,
            trial=trial_view(clean(trial)) if trial else None,
            style=_style("base.css", "words.css", "answer.css", "trial.css"),
            homes={},
        )
    )


def headwater_version() -> str:
    """The installed version, for the page's foot."""
    try:
        return version("headwater")
    except PackageNotFoundError:  # run from a source tree that nobody installed
        return "unknown"


def _homes(shown: View) -> dict[tuple[int, ...] | tuple[Any, ...], str]:
    """Where each folded row's whole text is kept: the first card that shows it. Others link to it."""
    homes: dict[tuple[Any, ...], str] = {}
    for query in shown.queries:
        for side, card in [*(("t", card) for card in query.toward), *(("a", card) for card in query.away)]:
            if card.folded:
                homes.setdefault((card.example, card.texts), f"q{query.number}{side}{card.example}")
    return homes


def environment_of(*folders: Path) -> Environment:
    """The templates in some folders; all that is not Markup is escaped, and what is not there is an error."""
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["spelled"] = lambda value: spelled(str(value))
    environment.filters["units16"] = lambda text: len(text.encode("utf-16-le")) // 2
    environment.filters["plural"] = plural
    environment.filters["pushed"] = lambda value: f"{value:+.3g}".replace("-", "−")
    environment.filters["direction"] = _direction
    environment.globals["pack"] = pack.pack
    return environment


@cache
def _environment() -> Environment:
    return environment_of(TEMPLATES)


def spelled(text: str) -> Markup:
    """Escape a text for HTML; name what cannot be seen, and keep it from changing how its neighbours are drawn."""
    escaped = str(escape(text)).replace("\r", "&#13;")
    return Markup(_UNSEEN.sub(lambda match: f"<bdi class=cc data-u={ord(match[0]):04X}>{match[0]}</bdi>", escaped))


def _direction(pieces: Sequence[Piece]) -> str:
    """ " dir=rtl" where the first letter with a direction says so (dir=auto would read the folds' labels, too)."""
    for character in "".join(piece.text for piece in pieces):
        kind = unicodedata.bidirectional(character)
        if kind in ("L", "R", "AL"):
            return "" if kind == "L" else " dir=rtl"
    return ""


@cache
def _style(*names: str) -> Markup:
    return Markup("\n".join(_squeezed((TEMPLATES / name).read_text(encoding="utf-8")) for name in names))


def _squeezed(css: str) -> str:
    """Style sheets without their comments and indentation."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    return re.sub(r"\s*\n\s*", "\n", css).strip()


@cache
def _script(*names: str) -> Markup:
    source = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)
    source = re.sub(r"^\s*//.*\n|^\s+", "", source, flags=re.MULTILINE)  # comments and indentation stay at home
    if "</script" in source or "<!--" in source:
        raise ValueError("the page's own script would end its element early")
    return Markup("(() => {\n" + source + "})();\n")


@cache
def _policy(*names: str) -> str:
    digest = base64.b64encode(hashlib.sha256(_script(*names).encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
