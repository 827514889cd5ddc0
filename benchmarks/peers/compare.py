"""What the side-by-side compares: the entries, one process's outcome, the table, the goals."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from report import Goal, spread, table

OUTSIDE = ("import", "again")  # phases that are no part of "cold"


@dataclass(frozen=True)
class Entry:
    """One line of the table: a library in one way of using it."""

    name: str
    worker: str
    environment: str = ""  # empty: the environment that runs the benchmark
    mode: str = ""
    slow: bool = False  # run once, however many repeats
    again: tuple[str, ...] = ()  # the phases that new queries cost, their gradients in hand
    passes: bool = True  # do those phases go over the training rows again?
    with_queries: bool = False  # they hold the queries' own passes too, which cannot be told apart


OURS, OURS_HALF, JOIN = "headwater float32", "headwater float16", "plain token join"
DATTRI, DATTRI_TUNED, DATTRI_STORED = "dattri-llm", "dattri-llm, tuned", "dattri-llm, stored"
ENTRIES = {
    entry.name: entry
    for entry in [
        Entry(OURS, "headwater", mode="float32", again=("again",), passes=False),
        Entry(OURS_HALF, "headwater", mode="float16", again=("again",), passes=False),
        Entry(JOIN, "reference", again=("pass", "score")),
        Entry(DATTRI, "dattri_llm", "dattri-llm", "plain", again=("attribute",), with_queries=True),
        Entry(DATTRI_TUNED, "dattri_llm", "dattri-llm", "tuned", again=("attribute",), with_queries=True),
        Entry(DATTRI_STORED, "dattri_llm", "dattri-llm", "stored", again=("score",), passes=False),
        Entry("sdi (a sketch)", "sdi", "sdi", again=("attribute",), with_queries=True),
        Entry("captum", "captum", "captum", slow=True, again=("attribute",), with_queries=True),
    ]
}


@dataclass(frozen=True)
class Outcome:
    """One finished process."""

    entry: Entry
    phases: dict[str, dict[str, float]]
    peak: int
    disk: int
    versions: dict[str, str]
    notes: dict[str, Any]
    scores: np.ndarray  # [Q, N]

    @classmethod
    def read(cls, entry: Entry, out: Path) -> Outcome:
        result = json.loads((out / "result.json").read_text())
        phases, peak, disk = result["phases"], result["peak_rss"], result["disk"]
        return cls(entry, phases, peak, disk, result["versions"], result["notes"], np.load(out / "scores.npy"))

    @property
    def cold(self) -> float:
        """Seconds from after the imports to the scores."""
        return sum(phase["wall"] for name, phase in self.phases.items() if name not in OUTSIDE)

    @property
    def cpu(self) -> float:
        """CPU seconds of the same."""
        return sum(phase["cpu"] for name, phase in self.phases.items() if name not in OUTSIDE)

    @property
    def again(self) -> float:
        """Seconds that new queries cost, their gradients in hand; the share of the queries' passes is taken off."""
        seconds = sum(self.phases[name]["wall"] for name in self.entry.again)
        queries, rows = self.scores.shape
        return seconds * rows / (rows + queries) if self.entry.with_queries else seconds


Found = dict[str, list[Outcome]]
"""By name of the entry: its repeated outcomes for one Q and number of threads."""


def describe(found: Found, truth: np.ndarray) -> str:
    """The table of one (Q, threads). Ratios are of medians, against headwater float32."""
    columns = ["library", "cold s", "x ours", "CPU s", "x ours", "again s", "x ours", "import s", "peak GB", "disk MB"]
    return table(
        [*columns, "error (autograd)", "error (join)", "top-10"], [_line(name, found, truth) for name in found]
    )


def _line(name: str, found: Found, truth: np.ndarray) -> list[str]:
    outcomes = found[name]
    last = outcomes[-1]
    queries = len(last.scores)
    join = found[JOIN][-1].scores if JOIN in found else None
    return [
        name,
        spread([outcome.cold for outcome in outcomes]),
        _ratio(found, name, "cold"),
        spread([outcome.cpu for outcome in outcomes]),
        _ratio(found, name, "cpu"),
        spread([outcome.again for outcome in outcomes], 3),
        _ratio(found, name, "again"),
        f"{last.phases['import']['wall']:.1f}",
        f"{max(outcome.peak for outcome in outcomes) / 1e9:.2f}",
        f"{last.disk / 1e6:.0f}",
        f"{relative_error(last.scores[:, : truth.shape[1]], truth[:queries]):.0e}",
        "-" if join is None else f"{relative_error(last.scores, join):.0e}",
        "-" if join is None else f"{overlap(last.scores, join):.3f}",
    ]


def times(found: Found, name: str, what: str) -> float:
    """How many times as much as headwater float32 an entry needs of `what` ("cold", "cpu", "again")."""
    theirs, ours = (statistics.median(getattr(outcome, what) for outcome in found[key]) for key in (name, OURS))
    return theirs / ours


def _ratio(found: Found, name: str, what: str) -> str:
    return f"{times(found, name, what):.3g}" if OURS in found else "-"


def goals_of(found: Found, queries: int, threads: int, truth: np.ndarray) -> list[Goal | str]:
    """The goals that these outcomes can answer, and the ratios that we promised to state."""
    if OURS not in found:
        return []
    where = f"Q={queries}, {threads} thread{'s' if threads > 1 else ''}"
    answers: list[Goal | str] = []
    bound = {10: 2.5, 100: 4.0}.get(queries)
    if DATTRI in found and bound:
        answers.append(Goal(f"cold, {where}: dattri-llm / headwater", times(found, DATTRI, "cold"), bound))
    if DATTRI_TUNED in found:
        ratio = times(found, DATTRI_TUNED, "cold")
        answers.append(f"stated: cold, {where}: dattri-llm tuned by us / headwater: {ratio:.3g}")
    passing = {name: times(found, name, "again") for name in found if ENTRIES[name].passes}
    if passing:
        name = min(passing, key=lambda name: passing[name])
        answers.append(Goal(f"again, {where}: {name} (best that passes again) / headwater", passing[name], 50.0))
    if DATTRI_STORED in found:
        ratio = times(found, DATTRI_STORED, "again")
        answers.append(f"stated: again, {where}: dattri-llm's stored rows / headwater: {ratio:.3g}")
    scores = found[OURS][-1].scores
    error = relative_error(scores[:, : truth.shape[1]], truth[:queries])
    answers.append(Goal(f"max relative error against dense autograd, {where}", error, 1e-5, at_least=False))
    return answers


def relative_error(found: np.ndarray, true: np.ndarray) -> float:
    """max|a - b| / max|b|."""
    return float(np.abs(found - true).max() / np.abs(true).max())


def overlap(found: np.ndarray, true: np.ndarray, k: int = 10) -> float:
    """Mean share of each query's k best rows that are the same."""
    pairs = zip(np.argsort(-found, axis=1)[:, :k], np.argsort(-true, axis=1)[:, :k], strict=True)
    return float(np.mean([len(np.intersect1d(one, other)) / k for one, other in pairs]))
