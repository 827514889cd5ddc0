"""The comparison as one self-contained page: the answer, pictures by depth, all tables, how to make it again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from headwater.attribution.render import headwater_version
from headwater.evaluation.first_vs_last.layers import LEXICAL, named
from headwater.evaluation.first_vs_last.measured import Measured
from headwater.evaluation.first_vs_last.tables import answers, grids, spelled_interval, tallies
from headwater.evaluation.plots import INK, MARKS, SERIES, SOFT, has_plots, new_figures, page_svg
from headwater.evaluation.report import page_style, page_templates

if TYPE_CHECKING:
    from headwater.evaluation.first_vs_last.study import Study

_DRAWN = ("lds", "del+ margin", "del- margin", "ndr@30 vote", "accuracy vote")
_LINES = {LEXICAL: (0, (1, 1)), "random": (0, (4, 3)), "nothing removed": (0, (6, 2)), "the flips removed": "-"}
"""Candidates without a layer: drawn as lines across."""


def render_page(study: Study, *, command: str | None = None) -> str:
    """Draw the page; `command` is what makes it again."""
    found = answers(study)
    return page_templates().get_template("first-vs-last.html.j2").render(
        study=study,
        title=f"First or last? · {study.run['name']}",
        answers=found,
        tallies=tallies(found),
        grids=grids(study),
        plots=[(_caption(study, metric), depth_plot(study, metric)) for metric in _DRAWN if _all(study, metric)],
        has_plots=has_plots(),
        interval=spelled_interval,
        command=command,
        settings=[(name.replace("_", " "), _plain(value)) for name, value in study.settings.items()],
        style=page_style(),
        version=headwater_version(),
    )  # fmt: skip


def depth_plot(study: Study, metric: str) -> Markup:
    """A metric by depth, one line a method; trained and frozen embeddings side by side. "" without matplotlib."""
    if not has_plots():
        return Markup("")
    found = _all(study, metric)
    figure, every = new_figures(3.4, len(found))
    groups = list(study.groups)
    for axes, each in zip(every, found, strict=True):
        for number, method in enumerate(study.settings["methods"]):
            _line(axes, each, groups, method, number)
        for label, style in _LINES.items():
            if label in each.values:
                axes.axhline(each.values[label].value, color=SOFT, linestyle=style, linewidth=1.1, label=label)
        if each.ceiling is not None:
            axes.axhline(each.ceiling, color=INK, linestyle="-", linewidth=1, label="noise ceiling")
        axes.set_xticks(range(len(groups)), groups, rotation=30, ha="right", color=INK)
        axes.set_title(f"word embeddings {each.embeddings}", fontsize=10, color=INK)
        axes.grid(axis="x", visible=False)
    every[0].set_ylabel(f"{metric} ({found[0].better} is better)")
    every[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False, labelcolor=INK)
    return page_svg(figure, f"f{_DRAWN.index(metric)}")


def _line(axes: Any, each: Measured, groups: Sequence[str], method: str, number: int) -> None:
    places, values, low, high = [], [], [], []
    for place, group in enumerate(groups):
        found = each.values.get(named(method, group))
        if found is not None and not math.isnan(found.value):
            places.append(place + 0.08 * number)
            values.append(found.value)
            low.append(found.value - (found.value if math.isnan(found.low) else found.low))
            high.append((found.value if math.isnan(found.high) else found.high) - found.value)
    if places:
        axes.errorbar(places, values, yerr=[low, high], color=SERIES[number], marker=MARKS[number], markersize=5,
                      linewidth=1.4, elinewidth=1, label=method)  # fmt: skip


def _all(study: Study, metric: str) -> list[Measured]:
    return [each for each in study.measured if each.metric == metric]


def _caption(study: Study, metric: str) -> str:
    each = _all(study, metric)[0]
    return f"{metric}: {each.about}"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "—" if value is None else str(value)
