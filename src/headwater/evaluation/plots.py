"""The plots of an evaluation's page, as pieces of SVG that take the page's colours, light or dark.

matplotlib draws with stand-in colours, each of which becomes one of the page's own. Same numbers, same bytes: ids come
from a fixed salt, and nothing holds a date. Needs the extra `plots`; without it there are none.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from markupsafe import Markup

from headwater.evaluation.columns import Graded
from headwater.evaluation.evaluation import Evaluation

INK, SOFT, _LINE = "#010101", "#020202", "#030303"
SERIES = ("#0a0101", "#0a0102", "#0a0103", "#0a0104", "#0a0105", "#0a0106", "#0a0107", "#0a0108")
_COLOURS = {INK: "var(--ink)", SOFT: "var(--soft)", _LINE: "var(--line)"} | {
    stand_in: f"var(--series-{number})" for number, stand_in in enumerate(SERIES)
}
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
_WIDTH = 7.2  # inches of a whole column of the page
_SETTINGS: Any = {
    "svg.hashsalt": "headwater",
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": _LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,
}


def has_plots() -> bool:
    """Whether there can be plots: `pip install headwater[plots]`."""
    return find_spec("matplotlib") is not None


def values_plot(evaluation: Evaluation, one: Graded, number: int) -> Markup:
    """Every method's value with its interval, the best first; of an LDS the ceiling too. "" where nothing is known."""
    known = [result for result in one.results if not math.isnan(result.value)]
    if not known:
        return Markup("")
    if one.column.better:
        known = sorted(known, key=lambda result: result.value, reverse=one.column.better == "lower")
    else:
        known = known[::-1]
    figure, axes = new_figure(0.75 + 0.3 * len(known))
    for place, result in enumerate(known):
        colour = _colour(evaluation, result.method)
        if not math.isnan(result.low):
            axes.plot([result.low, result.high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot([result.value], [place], _mark(evaluation, result.method), color=colour, markersize=7)
    axes.set_yticks(range(len(known)), [result.method for result in known], color=INK)
    axes.set_ylim(-0.6, len(known) - 0.4)
    axes.grid(axis="y", visible=False)
    _zero(axes)
    highest = (one.column.ceiling or {}).get("highest")
    if highest is not None and one.column.name == "lds":
        axes.axvline(highest, color=INK, linewidth=1, linestyle="--")
        axes.text(highest, len(known) - 0.4, " noise ceiling", color=SOFT, fontsize=9, va="bottom", ha="center")
    axes.set_xlabel(one.column.name)
    return page_svg(figure, f"v{number}")


def cost_plot(evaluation: Evaluation, one: Graded, number: int) -> Markup:
    """A column's value against the seconds of indexing and scoring; "" where fewer than two methods have both."""
    points = []
    for result in one.results:
        cost = evaluation.cost(result.method)
        if cost.index_seconds is not None and cost.score_seconds is not None and not math.isnan(result.value):
            points.append((max(cost.index_seconds + cost.score_seconds, 1e-3), result))
    if len(points) < 2:
        return Markup("")
    figure, axes = new_figure(3.2)
    for seconds, result in points:
        colour = _colour(evaluation, result.method)
        if not math.isnan(result.low):
            axes.plot([seconds, seconds], [result.low, result.high], color=colour, linewidth=1.6)
        mark = _mark(evaluation, result.method)
        axes.plot([seconds], [result.value], mark, color=colour, markersize=7, label=result.method)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:g}")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 10 ** math.floor(math.log10(low))), max(high, 10 ** math.ceil(math.log10(high))))
    axes.set_xlabel("seconds to index and to score all queries")
    axes.set_ylabel(one.column.name)
    _legend(axes)
    return page_svg(figure, f"c{number}")


def curve_plot(evaluation: Evaluation, name: str, number: int) -> Markup:
    """A deletion curve: what came of removing more and more rows."""
    told = evaluation.curves[name]
    figure, axes = new_figure(3.2)
    for label, line in told["methods"].items():
        if any(value is None for value in line["mean"]):
            continue
        colour = _colour(evaluation, label)
        if all(value is not None for value in line["low"]):
            axes.fill_between(told["k"], line["low"], line["high"], color=colour, alpha=0.12, linewidth=0)
        style = STYLES[_place(evaluation, label) % len(STYLES)]
        axes.plot(told["k"], line["mean"], color=colour, linestyle=style, marker=_mark(evaluation, label),
                  markersize=4, label=label)  # fmt: skip
    axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.set_xlabel("words cut" if name.startswith("word-del") else "rows removed")
    axes.set_ylabel(name)
    _legend(axes)
    return page_svg(figure, f"d{number}")


def new_figure(height: float) -> tuple[Any, Any]:
    """A figure as wide as the page, `height` inches high, and its axes."""
    figure, every = new_figures(height, 1)
    return figure, every[0]


def new_figures(height: float, count: int) -> tuple[Any, list[Any]]:
    """A figure with `count` axes side by side, which share what they measure."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        return figure, list(figure.subplots(1, count, sharey=True, squeeze=False)[0])


def page_svg(figure: Any, prefix: str) -> Markup:
    """Draw a figure for the page; `prefix` tells its ids from those of the other plots."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context(_SETTINGS):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None})
    return Markup(_of_the_page(file.getvalue(), prefix))


def _of_the_page(svg: str, prefix: str) -> str:
    """Take the element out of the file, give it the page's colours, and ids that no other plot has."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for stand_in, colour in _COLOURS.items():
        svg = svg.replace(stand_in, colour)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px; font-family: inherit", svg)
    return re.sub(r"\s*\n\s*", "\n", svg)


def _zero(axes: Any) -> None:
    low, high = axes.get_xlim()
    if low < 0 < high:
        axes.axvline(0, color=SOFT, linewidth=0.8)


def _legend(axes: Any) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False, labelcolor=INK)


def _place(evaluation: Evaluation, method: str) -> int:
    methods: Sequence[str] = evaluation.methods
    return methods.index(method) if method in methods else len(methods)


def _colour(evaluation: Evaluation, method: str) -> str:
    return SERIES[_place(evaluation, method) % len(SERIES)]


def _mark(evaluation: Evaluation, method: str) -> str:
    return MARKS[_place(evaluation, method) // len(SERIES) % len(MARKS)]
