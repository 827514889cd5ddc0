"""A worklist as one self-contained HTML page: how many, how sure, what it cost, and every suspect with its reasons.

No script, nothing fetched, all text escaped. Same worklist, same bytes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from headwater.attribution.numerals import percent, percentile, plural, probability
from headwater.attribution.render import TEMPLATES, environment_of, headwater_version
from headwater.audit.worklist import NOT_CALIBRATED, Cost, Suspect, Worklist

SHOWN = 200  # suspects on the page; worklist.json and .csv have all

_OWN = Path(__file__).parent / "templates"


def render_worklist(worklist: Worklist, *, run: str, command: str | None = None, plot: Markup | None = None) -> str:
    """Draw the page; `command` is what makes it again, `plot` a figure of its calibration (SVG)."""
    return (
        _templates()
        .get_template("worklist.html.j2")
        .render(
            worklist=worklist,
            title=f"{worklist.audit} · {run}",
            suspects=[(rank, suspect, worklist.corpus[suspect.row]) for rank, suspect in shown(worklist)],
            hidden=max(len(worklist.suspects) - SHOWN, 0),
            cost=told_cost(worklist.cost),
            not_calibrated=NOT_CALIBRATED,
            command=command,
            plot=plot,
            style=_style(),
            version=headwater_version(),
        )
    )


def shown(worklist: Worklist) -> list[tuple[int, Suspect]]:
    """The suspects on the page, with their ranks."""
    return list(enumerate(worklist.suspects[:SHOWN], 1))


def suggestion(suspect: Suspect) -> str:
    """What shall be done, in a word or two: `relabel to spam`, `delete`, `weight 0.5`."""
    if suspect.action == "relabel":
        return f"relabel to {suspect.label}"
    if suspect.action == "weight":
        return f"weight {suspect.weight:.3g}"
    return suspect.action


def told_cost(cost: Cost) -> str:
    """Seconds, memory and speed in one line."""
    memory = f", {cost.peak_bytes / 1e6:,.0f} MB at the peak" if cost.peak_bytes else ""
    return f"{cost.seconds:,.1f} s for {plural(cost.rows, 'row')} ({cost.rows_per_second:,.0f} rows/s){memory}"


@cache
def _templates() -> Environment:
    environment = environment_of(_OWN, TEMPLATES)
    environment.filters |= {
        "plural": plural,
        "suggestion": suggestion,
        "percent": percent,
        "place": lambda share: percentile(100 * share),
        "probability": probability,
        "of_kind": lambda evidence, kind: [each for each in evidence if each.kind == kind],
        "short": lambda value: f"{value:.3g}",
    }
    return environment


@cache
def _style() -> Markup:
    sheets = [*(TEMPLATES / name for name in ("base.css", "page.css")), _OWN / "worklist.css"]
    return Markup("\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets))
