"""The tables of the comparison: the answer, and every candidate by every metric; and both as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.evaluation.first_vs_last.layers import ALL, FIRST, LAST, named
from headwater.evaluation.first_vs_last.measured import Measured
from headwater.evaluation.metrics.bootstrap import Interval
from headwater.evaluation.numbers import duration, number

if TYPE_CHECKING:
    from headwater.evaluation.first_vs_last.study import Study

_ANSWERS = ("lds", "del+ margin", "del- margin", "ndr@30 mean", "ndr@30 vote", "accuracy mean", "accuracy vote")
"""Metrics that the answer rests on; the others say the same in other words."""
_HEADS = {
    "lds": "Do scores foretell what retraining on random halves gives?",
    "deletion": "What does retraining without each query's highest (+) and lowest (-) rows change?",
    "noise": "Do flipped labels stand lowest?",
    "filtering": "How accurate is a training without the lowest rows?",
}
_TABLES = {
    "lds": (("lds",),),
    "deletion": (("del+ margin", "del- margin"), ("del+ probability", "del- probability")),
    "noise": (
        ("ndr@30 mean", "ndr@30 rank", "ndr@30 vote"),
        ("auc-ndr mean", "auc-ndr rank", "auc-ndr vote"),
        ("ndr@30 mean-c", "ndr@30 rank-c", "ndr@30 vote-c"),
        ("auc-ndr mean-c", "auc-ndr rank-c", "auc-ndr vote-c"),
    ),
    "filtering": (("accuracy mean", "accuracy rank", "accuracy vote"), ("win rate",)),
}


@dataclass(frozen=True)
class Answer:
    """One method by one metric: the first layer, the last, all of them, and which of first and last is better."""

    measured: Measured
    method: str
    first: Interval
    last: Interval
    whole: Interval
    difference: Interval
    """First minus last, paired."""
    verdict: str


@dataclass(frozen=True)
class Tally:
    """One protocol in short: how often the first layer did better, how often the last, of how many comparisons."""

    title: str
    first: int
    last: int
    comparisons: int

    @property
    def sentence(self) -> str:
        """Which won, in words."""
        undecided = self.comparisons - self.first - self.last
        found = f"first better in {self.first} of {self.comparisons} comparisons, last in {self.last}"
        return f"{found}; no difference shown in {undecided}"


@dataclass(frozen=True)
class Grid:
    """Candidates by columns, those of trained and of frozen embeddings side by side."""

    protocol: str
    title: str
    columns: tuple[Measured, ...]
    rows: tuple[str, ...]

    @property
    def notes(self) -> list[tuple[str, str]]:
        """What is said of columns: their names, and what they measure and how; columns of which the same is said once.

        A protocol that differs between trained and frozen embeddings (in the number of queries, say) is told of both.
        """
        told: dict[str, list[str]] = {}
        for each in self.columns:
            told.setdefault(f"{each.about}. {each.how}", []).append(each.metric)
        return [(", ".join(dict.fromkeys(names)), note) for note, names in told.items()]

    def best(self, column: Measured) -> set[str]:
        """The candidates with the best value of a column, the references left aside."""
        known = {label: each.value for label, each in column.values.items() if not math.isnan(each.value)}
        known = {label: value for label, value in known.items() if not label.endswith("removed")}
        if not known:
            return set()
        top = max(known.values()) if column.better == "higher" else min(known.values())
        return {label for label, value in known.items() if value == top}


def answers(study: Study) -> list[Answer]:
    """The answer, metric by metric."""
    found = []
    for metric in _ANSWERS:
        for each in study.measured:
            if each.metric != metric:
                continue
            for method in study.settings["methods"]:
                first, last, whole = (named(method, group) for group in (FIRST, LAST, ALL))
                if (first, last) not in each.differences:
                    continue
                verdict = each.verdict((first, last))
                word = {first: "first", last: "last"}.get(verdict, verdict)
                found.append(
                    Answer(each, method, each.values[first], each.values[last], each.values[whole],
                           each.differences[first, last], word)
                )  # fmt: skip
    return found


def tallies(found: Sequence[Answer]) -> list[Tally]:
    """Count who did better, protocol by protocol."""
    made = []
    for protocol, tables in _TABLES.items():
        metrics = {metric for metrics in tables for metric in metrics}
        verdicts = [one.verdict for one in found if one.measured.metric in metrics]
        if verdicts:
            made.append(Tally(_HEADS[protocol], verdicts.count("first"), verdicts.count("last"), len(verdicts)))
    return made


def grids(study: Study) -> list[Grid]:
    """Every table, protocol by protocol."""
    made = []
    for protocol, tables in _TABLES.items():
        for metrics in tables:
            columns = [each for metric in metrics for each in study.measured if each.metric == metric]
            rows = dict.fromkeys(label for each in columns for label in each.values)
            if columns:
                made.append(Grid(protocol, _HEADS[protocol], tuple(columns), tuple(rows)))
    return made


def render_markdown(study: Study, *, command: str | None = None) -> str:
    """The tables as Markdown; intervals in brackets, the best of a column in bold."""
    return "\n".join(_markdown(study, command)) + "\n"


def _markdown(study: Study, command: str | None) -> Iterator[str]:
    yield f"## {study.run['name']}: {study.run['model']}, {study.run['rows']:,} training rows"
    yield ""
    if command:
        yield from ("```", command, "```", "")
    yield (
        f"{study.queries:,} queries, {study.tests:,} other test rows, {study.retrains:,} retrainings, seed "
        f"{study.settings['seed']}; {duration(study.seconds)} in the last call."
    )
    for each in study.trainings:
        noisy = "" if each.noisy_accuracy is None else f", {each.noisy_accuracy:.1%} on flipped labels"
        yield f"Word embeddings {each.embeddings}: accuracy {each.accuracy:.1%}{noisy}."
    found = answers(study)
    yield from ("", "### First or last?", "")
    yield from (f"- {each.title} {each.sentence}." for each in tallies(found))
    yield ""
    head = ("metric", "better", "embeddings", "method", "first", "last", "all", "first - last", "better layer")
    rows = [
        (each.measured.metric, each.measured.better, each.measured.embeddings, each.method, number(each.first.value),
         number(each.last.value), number(each.whole.value), spelled_interval(each.difference), each.verdict)
        for each in found
    ]  # fmt: skip
    yield from _table(head, rows)
    done: set[str] = set()
    for grid in grids(study):
        if grid.protocol not in done:
            yield from ("", f"### {grid.title}", "")
            done.add(grid.protocol)
        yield ""
        yield from _grid(grid)


def _grid(grid: Grid) -> Iterator[str]:
    for names, note in grid.notes:
        yield f"- {names}: {note}."
    yield ""
    head = ["", *(f"{each.metric}, {each.embeddings} ({each.better})" for each in grid.columns)]
    best = [grid.best(each) for each in grid.columns]
    rows = []
    for label in grid.rows:
        cells = []
        for each, top in zip(grid.columns, best, strict=True):
            found = each.values.get(label)
            text = "" if found is None else spelled_interval(found)
            cells.append(f"**{text}**" if label in top else text)
        rows.append([label, *cells])
    if any(each.ceiling is not None for each in grid.columns):
        rows.append(["noise ceiling", *(number(each.ceiling) for each in grid.columns)])
    yield from _table(head, rows)


def spelled_interval(found: Interval) -> str:
    """A value, and its interval in brackets where it has one."""
    if math.isnan(found.low):
        return number(found.value)
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
