"""An evaluation as one self-contained HTML page: the table, plots, protocols, and how to run it again.

No script, nothing fetched, all text escaped; numbers stand in full in the table's `data` elements.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from headwater.attribution.render import TEMPLATES, environment_of, headwater_version
from headwater.evaluation.columns import Graded
from headwater.evaluation.evaluation import Evaluation
from headwater.evaluation.numbers import duration, number, size
from headwater.evaluation.plots import cost_plot, curve_plot, has_plots, values_plot

_OWN = Path(__file__).parent / "templates"
_STYLES = ("base.css", "page.css")
_SECTIONS = dict.fromkeys(("ndr", "auc-ndr", "mislabel"), "wrong labels")
"""Metrics that stand in one section."""


def render_page(evaluation: Evaluation, *, title: str | None = None, command: str | None = None) -> str:
    """Draw the page; `command` is what makes it again."""
    page = page_templates().get_template("evaluation.html.j2")
    return page.render(
        evaluation=evaluation,
        title=title or f"Which method should I believe? · {evaluation.run['name']}",
        groups=_groups(evaluation),
        retrains=evaluation.retrains,
        command=command,
        settings=[(name.replace("_", " "), _plain(value)) for name, value in evaluation.settings.items()],
        style=page_style(),
        plots=has_plots(),
        version=headwater_version(),
    )


def _groups(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One section a metric: its columns, their plots, what its retrainings were."""
    names = list(dict.fromkeys(_SECTIONS.get(one.column.metric, one.column.metric) for one in evaluation.columns))
    used = {each.metric: each for each in evaluation.used}
    made = []
    for metric in names:
        columns = [one for one in evaluation.columns if _SECTIONS.get(one.column.metric, one.column.metric) == metric]
        made.append(
            {
                "metric": metric,
                "columns": columns,
                "plots": _plots(evaluation, columns),
                "used": used.get(metric),
                "notes": _notes(columns),
                "ceiling": next((one.column.ceiling for one in columns if one.column.ceiling), None),
            }
        )
    return made


def _plots(evaluation: Evaluation, columns: list[Graded]) -> list[tuple[str, Markup]]:
    if not has_plots():
        return []
    found: list[tuple[str, Markup]] = []
    for one in columns:
        place = evaluation.columns.index(one)
        if one.column.name == "lds corrected":
            continue
        if one.column.name in evaluation.curves:
            found.append(
                (f"{one.column.name}, by the number of {_removed(one)}", curve_plot(evaluation, one.column.name, place))
            )
        if one.column.main:
            found.append((f"{one.column.name}: {one.column.about}", values_plot(evaluation, one, place)))
    first = columns[0]
    if first.column.better and first.column.metric != "stability":
        place = evaluation.columns.index(first)
        found.append((f"{first.column.name} against what it costs", cost_plot(evaluation, first, place)))
    return [(caption, plot) for caption, plot in found if plot]


def _removed(one: Graded) -> str:
    return "words cut" if one.column.metric == "word-deletion" else "rows removed"


def _notes(columns: list[Graded]) -> list[tuple[str, str]]:
    """What is said of single cells; where all methods have the same note, once."""
    told: dict[str, list[str]] = {}
    for one in columns:
        for result in one.results:
            for note in result.notes:
                methods = told.setdefault(note, [])
                if result.method not in methods:
                    methods.append(result.method)
    everyone = max((len(one.results) for one in columns), default=0)
    return [("" if len(methods) == everyone else ", ".join(methods), note) for note, methods in told.items()]


@cache
def page_templates() -> Environment:
    """The templates of an evaluation's pages; all that is not Markup is escaped."""
    environment = environment_of(_OWN)
    environment.filters |= {
        "number": number,
        "duration": duration,
        "size": size,
        "exact": lambda value: "" if value is None or math.isnan(value) else repr(float(value)),
        "known": lambda value: value is not None and not math.isnan(value),
    }
    return environment


@cache
def page_style() -> Markup:
    """The style sheet of these pages."""
    sheets = [*(TEMPLATES / name for name in _STYLES), _OWN / "evaluation.css"]
    return Markup("\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets))


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "—" if value is None else str(value)
