"""The table of an evaluation in the terminal, cut into as many as its width asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headwater.evaluation.columns import Graded
from headwater.evaluation.evaluation import Evaluation
from headwater.evaluation.numbers import counted, duration, number, size
from headwater.evaluation.result import Result

_ARROWS = {"higher": "↑", "lower": "↓", "": ""}
_CELL = 22  # columns of the terminal that a value with its interval takes, with the space around it


def render_terminal(evaluation: Evaluation, console: Console) -> None:
    """Draw the main columns, the costs, and what the numbers rest on."""
    main = [one for one in evaluation.columns if one.column.main]
    widest = max(len(name) for name in [*evaluation.methods, "noise ceiling"])
    console.print(_costs(evaluation))
    for some in _chunks(main, max(1, (console.width - widest - 2) // _CELL)):
        console.print()
        console.print(_table(evaluation, some))
    console.print()
    for line in _told(evaluation):
        console.print(Text(line, style="dim"), soft_wrap=True)


def _costs(evaluation: Evaluation) -> Table:
    table = _empty("index", "score", "on disk")
    for cost in evaluation.costs:
        cells = (duration(cost.index_seconds), duration(cost.score_seconds), size(cost.bytes))
        table.add_row(Text(cost.method), *map(Text, cells))
    return table


def _table(evaluation: Evaluation, some: Sequence[Graded]) -> Table:
    table = _empty(*(f"{one.column.name} {_ARROWS[one.column.better]}".strip() for one in some))
    best = {one.column.name: evaluation.best(one.column.name) for one in some}
    for method in evaluation.methods:
        cells = [_cell(one, method, method in best[one.column.name]) for one in some]
        table.add_row(Text(method), *cells)
    ceilings = [(one.column.ceiling or {}).get("highest") for one in some]
    if any(ceiling is not None for ceiling in ceilings):
        shown = [Text("" if each is None else number(each), style="dim") for each in ceilings]
        table.add_row(Text("noise ceiling", style="dim"), *shown)
    return table


def _empty(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("method", overflow="fold")
    for name in names:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table


def _cell(one: Graded, method: str, best: bool) -> Text:
    found: list[Result] = [result for result in one.results if result.method == method]
    if not found or math.isnan(found[0].value):
        return Text("—", style="dim")
    result = found[0]
    text = Text(number(result.value), style="bold" if best else "")
    if not math.isnan(result.low):
        text.append(f" {number(result.low)}..{number(result.high)}", style="not bold dim")
    return text


def _chunks(columns: Sequence[Graded], most: int) -> Iterator[Sequence[Graded]]:
    for start in range(0, len(columns), most):
        yield columns[start : start + most]


def _told(evaluation: Evaluation) -> Iterator[str]:
    """Protocols, what was used, what is wrong with single columns."""
    said: set[str] = set()
    for one in evaluation.columns:
        line = f"{one.column.metric}: {one.column.protocol}."
        if one.column.main and one.column.protocol and line not in said:
            said.add(line)
            yield line
        for note in dict.fromkeys(note for result in one.results for note in result.notes):
            everyone = one.column.main and all(note in result.notes for result in one.results)
            if everyone and note not in said:
                said.add(note)
                yield f"{one.column.name}: {note}"
    for used in evaluation.used:
        yield f"{used.metric}: {used.used:,} of {used.wished:,} {used.unit} wished for, {used.retrains:,} retrainings."
    each = "" if evaluation.retrain_seconds is None else f" of {duration(evaluation.retrain_seconds)}"
    retrains = f"{evaluation.retrains:,} retrainings{each}, " if evaluation.retrains else ""
    took = f"{retrains}{duration(evaluation.seconds)} in all"
    yield f"{counted(evaluation.queries, 'query')}, {took}; 95% intervals over queries, or what the protocol names."
