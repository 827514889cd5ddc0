"""`hw.Evaluation`: the table of an evaluation, and what it is written to."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.evaluation.columns import Column, Graded
from headwater.evaluation.removals import Curves
from headwater.evaluation.result import Result
from headwater.evaluation.scoring import Cost
from headwater.files import write_json, write_text

JSON, CSV, HTML = "evaluation.json", "evaluation.csv", "evaluation.html"


@dataclass(frozen=True)
class Used:
    """What a metric was given of what it wished for."""

    metric: str
    unit: str
    wished: int
    used: int
    retrains: int
    """Retrainings that its numbers come from; metrics may share some."""


@dataclass(frozen=True)
class Evaluation:
    """Methods by metrics, on the same retrainings and the same queries for every method."""

    run: Mapping[str, Any]
    queries: int
    columns: tuple[Graded, ...]
    costs: tuple[Cost, ...]
    """In the order of the table."""
    used: tuple[Used, ...]
    retrains: int
    """Different retrainings that the table rests on."""
    retrain_seconds: float | None
    """Of one, in the mean."""
    seconds: float
    """The whole evaluation took; what was there from an earlier one took none."""
    forecast: str
    """What it said beforehand."""
    settings: Mapping[str, Any]
    curves: Curves = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def methods(self) -> list[str]:
        """The names of what was graded, in the order of the table."""
        return [cost.method for cost in self.costs]

    @property
    def results(self) -> list[Result]:
        """Every cell, column by column."""
        return [result for one in self.columns for result in one.results]

    def column(self, name: str) -> Column:
        """Return the column of this name. Raises KeyError."""
        return self._column(name).column

    def cell(self, metric: str, method: str) -> Result:
        """Return one cell. Raises KeyError where there is none."""
        for result in self._column(metric).results:
            if result.method == method:
                return result
        raise KeyError(f"{metric} of {method}")

    def cost(self, method: str) -> Cost:
        """Return what a method costs. Raises KeyError."""
        for cost in self.costs:
            if cost.method == method:
                return cost
        raise KeyError(method)

    def best(self, name: str) -> list[str]:
        """The methods with the best value of a column; those that tie; empty where nothing is better."""
        column, results = self.column(name), self._column(name).results
        known = [result for result in results if not math.isnan(result.value)]
        if not column.better or not known:
            return []
        values = [result.value for result in known]
        top = max(values) if column.better == "higher" else min(values)
        return [result.method for result in known if result.value == top]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it; None stands for what is not known."""
        return {
            "run": dict(self.run),
            "queries": self.queries,
            "methods": [cost.to_dict() for cost in self.costs],
            "columns": [one.column.to_dict() for one in self.columns],
            "results": [result.to_dict() for result in self.results],
            "per_query": {one.column.name: dict(one.values) for one in self.columns if one.values},
            "curves": self.curves,
            "retrainings": {
                "count": self.retrains,
                "seconds_each": self.retrain_seconds,
                "metrics": [vars(used) for used in self.used],
            },
            "seconds": self.seconds,
            "forecast": self.forecast,
            "settings": dict(self.settings),
            "notes": list(self.notes),
        }

    def to_csv(self) -> str:
        """One line a cell, with the method's cost and the column's ceiling beside it."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_HEAD)
        for one in self.columns:
            ceiling = (one.column.ceiling or {}).get("highest")
            for result in one.results:
                cost = self.cost(result.method)
                told = result.to_dict()
                cells = [told[name] for name in ("metric", "method", "value", "low", "high", "queries")]
                cells += [ceiling, one.column.better, cost.index_seconds, cost.score_seconds, cost.bytes]
                writer.writerow(["" if cell is None else cell for cell in cells] + [told["protocol"], _joined(told)])
        return file.getvalue()

    def save(self, folder: str | Path, *, command: str | None = None) -> None:
        """Write evaluation.json, evaluation.csv and evaluation.html into `folder`."""
        from headwater.evaluation.report import render_page

        place = Path(folder)
        write_json(place / JSON, self.to_dict())
        write_text(place / CSV, self.to_csv())
        write_text(place / HTML, render_page(self, command=command))

    def __repr__(self) -> str:
        names = ", ".join(one.column.name for one in self.columns)
        return f"Evaluation({len(self.costs)} methods; {names}; {self.queries} queries, {self.retrains:,} retrainings)"

    def _repr_html_(self) -> str:
        """The table: a row a method, a column a metric, values with their intervals, the best in bold."""
        best = {one.column.name: set(self.best(one.column.name)) for one in self.columns}
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ("method", *best))
        rows = []
        for method in self.methods:
            cells = []
            for one in self.columns:
                found = [result for result in one.results if result.method == method]
                told = _told(found[0]) if found else ""
                cells.append(f"<td>{f'<b>{told}</b>' if method in best[one.column.name] else told}</td>")
            rows.append(f"<tr><th>{html.escape(method)}</th>{''.join(cells)}</tr>")
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        said = f"<p>{self.queries:,} queries, {self.retrains:,} retrainings; 95% intervals in brackets.</p>"
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{said}<ul>{notes}</ul>"

    def _column(self, name: str) -> Graded:
        for one in self.columns:
            if one.column.name == name:
                return one
        raise KeyError(name)


def _told(result: Result) -> str:
    if math.isnan(result.value):
        return "–"
    between = "" if math.isnan(result.low) else f" ({result.low:.3g} to {result.high:.3g})"
    return f"{result.value:.3g}{between}"


_HEAD: Sequence[str] = (
    "metric",
    "method",
    "value",
    "low",
    "high",
    "queries",
    "ceiling",
    "better",
    "index_seconds",
    "score_seconds",
    "bytes",
    "protocol",
    "notes",
)


def _joined(told: Mapping[str, Any]) -> str:
    return " ".join(told["notes"])
