"""`headwater audit RUN sources`: where the rows came from, and which source helps or hurts a set of queries.

    sums         mean over queries of the summed scores of the source's rows, with a bootstrap interval over queries
    untrac       what unlearning (a sample of) the source does to the queries: `headwater.audit.untrac`
    untrac-inv   what unlearning the queries does to the source, times its rows
    truth        the rise of the queries' mean loss when the source is left out of the training; mean over seeds

Positive: the source helps. Methods are graded by Pearson over sources against the truth, where that was asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from headwater.attribution.index import Index
from headwater.attribution.numerals import plural
from headwater.audit.untrac import Unlearned, Unlearner, Unlearning
from headwater.audit.worklist import Cost, Suspect, Worklist, peak_bytes
from headwater.errors import DataError, UsageError
from headwater.evaluation.bank import RetrainBank, remove
from headwater.evaluation.grouped import plain_values
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run

WHAT = "sources"
SUMS, UNTRAC, INVERSE, TRUTH = "sums", "untrac", "untrac-inv", "truth"
METHODS = (SUMS, INVERSE, UNTRAC)
"""The cheapest first."""
MOST_SOURCES = 50
MOST_QUERIES = 500
_DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True)
class Source:
    """One source. Influences are of its removal on the queries' mean loss, up to each method's own scale."""

    name: str
    rows: int
    influence: Mapping[str, float]
    """By method, and by `truth`."""
    low: float | None = None
    """95% interval of `sums`, over another draw of queries."""
    high: float | None = None
    seeds: tuple[float, ...] = ()
    """The truth by seed."""
    unlearned: Mapping[str, Unlearned] | None = None

    @property
    def hurts(self) -> bool:
        """Whether the interval of the sums, and UnTrac where it was run, say so."""
        unlearned = [value for name, value in self.influence.items() if name in (UNTRAC, INVERSE)]
        return self.high is not None and self.high < 0 and all(value < 0 for value in unlearned)


@dataclass(frozen=True)
class Graded:
    """How well a method foretells the truth: Pearson over sources, with its 95% interval (Fisher's z)."""

    method: str
    pearson: float
    low: float
    high: float


def sources_of(corpus: Corpus, column: str) -> dict[str, list[int]]:
    """The rows of each source, sources by name. Raises DataError for a column that is not there or has empty cells,
    UsageError for one source, or more than 50: that is no column of sources."""
    found: dict[str, list[int]] = {}
    for row, value in enumerate(plain_values(corpus, column)):
        if value is None:
            raise DataError(f"{corpus.name}, row {row + 1:,}, column {column!r}: is empty. Each row needs a source.")
        found.setdefault(str(value), []).append(row)
        if len(found) > MOST_SOURCES:
            raise UsageError(
                f"{corpus.name}, column {column!r}: more than {MOST_SOURCES} different values; a source has many rows."
            )
    if len(found) < 2:
        raise UsageError(f"{corpus.name}, column {column!r}: one source alone; there is nothing to compare.")
    return dict(sorted(found.items()))


def audit_sources(
    run: Run,
    index: Index | None,
    queries: Corpus,
    column: str,
    *,
    methods: Sequence[str] = METHODS,
    how: Unlearning | None = None,
    rows: int = 256,
    truth: Path | None = None,
    seeds: int = 3,
    seconds: float = math.inf,
    seed: int = 0,
    show: bool | None = None,
) -> Worklist:
    """Measure every source of a column by each method, within `seconds`; what did not fit is told in the notes.

    `rows`: so many of each source, drawn at random, are unlearned or asked. `truth` is a folder for retrainings
    without each source, `seeds` times each; they go on where they stopped. Raises DataError, UsageError, RunError.
    """
    began = time.monotonic()
    groups = sources_of(run.corpus, column)
    if queries.columns.label is None:
        raise DataError(f"{queries.name}: the queries need labels: their loss is what a source helps or hurts.")
    asked, notes = _drawn(queries, MOST_QUERIES, seed), []
    samples = {name: _drawn(run.corpus.take(members), rows, seed) for name, members in groups.items()}
    influence: dict[str, dict[str, float]] = {name: {} for name in groups}
    intervals: dict[str, tuple[float | None, float | None]] = {}
    unlearned: dict[str, dict[str, Unlearned]] = {name: {} for name in groups}
    scores: Float32[np.ndarray, "queries rows"] | None = None
    for method in [name for name in METHODS if name in methods]:
        if time.monotonic() - began > seconds:
            notes.append(f"The time was over before {method}. Give more --budget.")
            continue
        if method == SUMS:
            if index is None:
                notes.append("No index, so no sums: headwater index RUN.")
                continue
            scores = _scores(index, asked, show)
            for name, (value, low, high) in summed(scores, groups, seed).items():
                influence[name][SUMS], intervals[name] = value, (low, high)
            continue
        unlearner, given = Unlearner(run), how or Unlearning()
        if method == INVERSE:
            found = unlearner.inverse(samples, asked, given, show=show)
            found = {name: replace(each, influence=each.influence * len(groups[name])) for name, each in found.items()}
        else:
            found = unlearner.untrac(samples, asked, given, seed=seed, show=show)
        for name, each in found.items():
            influence[name][method], unlearned[name][method] = each.influence, each
        if any(each.stopped for each in found.values()):
            notes.append(f"{method}: the loss rose so far that steps were broken off. Give a smaller --learning-rate.")
    by_seed: dict[str, tuple[float, ...]] = {}
    if truth is not None:
        by_seed = _truth(run, asked, groups, truth, seeds, began + seconds, show)
        if by_seed:
            for name, values in by_seed.items():
                influence[name][TRUTH] = float(np.mean(values))
        else:
            notes.append("The time was over before every source was left out once. The same command goes on.")
    made = []
    for name, members in groups.items():
        ends = intervals.get(name, (None, None))
        made.append(Source(name, len(members), influence[name], *ends, by_seed.get(name, ()), unlearned[name]))
    return _worklist(run, column, asked, tuple(made), groups, scores, notes, began)


def summed(
    scores: Float32[np.ndarray, "queries rows"], groups: Mapping[str, Sequence[int]], seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Of each source, the mean over queries of its rows' summed scores, with a bootstrap interval over queries."""
    drawn = np.random.default_rng(seed).integers(0, len(scores), (_DRAWS, len(scores)))
    found = {}
    for name, members in groups.items():
        sums = scores[:, list(members)].sum(axis=1, dtype=np.float64)
        low, high = np.quantile(sums[drawn].mean(axis=1), [0.025, 0.975])
        found[name] = (float(sums.mean()), float(low), float(high))
    return found


def grades(sources: Sequence[Source]) -> list[Graded]:
    """Grade each method by Pearson over the sources; nothing without a truth, or with fewer than three sources."""
    known = [source for source in sources if TRUTH in source.influence]
    found = []
    for method in METHODS:
        if len(known) < 3 or not all(method in source.influence for source in known):
            continue
        one = np.array([source.influence[method] for source in known])
        two = np.array([source.influence[TRUTH] for source in known])
        if np.ptp(one) == 0 or np.ptp(two) == 0:
            continue
        value = float(np.corrcoef(one, two)[0, 1])
        half = 1.96 / math.sqrt(len(known) - 3) if len(known) > 3 else math.inf
        middle = math.atanh(max(min(value, 1 - 1e-12), -1 + 1e-12))
        found.append(Graded(method, value, math.tanh(middle - half), math.tanh(middle + half)))
    return found


def _drawn(corpus: Corpus, most: int, seed: int) -> Corpus:
    if len(corpus) <= most:
        return corpus
    rows = np.random.default_rng(seed).choice(len(corpus), most, replace=False)
    return corpus.take(sorted(rows.tolist()))


def _scores(index: Index, queries: Corpus, show: bool | None) -> Float32[np.ndarray, "queries rows"]:
    labels: list[str | int] = ["" if example.label is None else example.label for example in queries]
    return np.asarray(index.scores(queries, labels, show=show))


def _truth(
    run: Run,
    queries: Corpus,
    groups: Mapping[str, Sequence[int]],
    folder: Path,
    seeds: int,
    until: float,
    show: bool | None,
) -> dict[str, tuple[float, ...]]:
    """The rise of the queries' mean loss without each source, by seed; nothing where the time did not suffice."""
    run.need_recipe()
    bank = RetrainBank.create(
        run, folder, queries, protocol=remove(), subsets=[(), *map(tuple, groups.values())], seeds=seeds
    )
    bank.fill(until=None if math.isinf(until) else until, show=show)
    if bank.missing():
        return {}
    results = bank.results()
    losses = {removal: results.losses[number] for number, removal in enumerate(results.removals)}
    whole: Float64[np.ndarray, " seeds"] = losses[()].mean(axis=1, dtype=np.float64)
    return {
        name: tuple((losses[tuple(sorted(members))].mean(axis=1, dtype=np.float64) - whole).tolist())
        for name, members in groups.items()
    }


def _worklist(
    run: Run,
    column: str,
    queries: Corpus,
    sources: tuple[Source, ...],
    groups: Mapping[str, Sequence[int]],
    scores: Float32[np.ndarray, "queries rows"] | None,
    notes: Sequence[str],
    began: float,
) -> Worklist:
    bad = sorted((source for source in sources if source.hurts), key=lambda source: source.influence[SUMS])
    suspects = []
    for source in bad:
        assert scores is not None
        mean = scores.mean(axis=0, dtype=np.float64)
        for row in sorted(groups[source.name], key=lambda row: (mean[row], row)):
            place = float((mean >= mean[row]).mean())
            suspects.append(
                Suspect(row, "delete", -float(mean[row]), percentiles={SUMS: place}, group=f"source {source.name}")
            )
    told = ", ".join(source.name for source in bad)
    hurt = (
        f"{plural(len(bad), 'source')} of {len(sources)} hurt these queries: {told}."
        if bad
        else (f"No source of {len(sources)} is shown to hurt these queries.")
    )
    found = grades(sources)
    sure = (
        "Against retraining without each source: "
        + ", ".join(f"{each.method} r = {each.pearson:.2f} ({each.low:.2f} to {each.high:.2f})" for each in found)
        + "."
        if found
        else "Not graded: --truth retrains without each source and says how far each method foretold it."
    )
    return Worklist(
        WHAT,
        run.corpus,
        tuple(suspects),
        hurt,
        sure,
        Cost(time.monotonic() - began, peak_bytes(), len(run.corpus)),
        {SUMS: "summed scores of the source's rows; its own row's place among all rows, the most harmful at 100"},
        tuple(notes),
        {
            "column": column,
            "queries": len(queries),
            "sources": [_told(source) for source in sources],
            "grades": [vars(each) for each in found],
        },
    )


def _told(source: Source) -> dict[str, Any]:
    return {
        "source": source.name,
        "rows": source.rows,
        **source.influence,
        "low": source.low,
        "high": source.high,
        "hurts": source.hurts,
        "truth_by_seed": list(source.seeds),
        "unlearned": {
            name: {"rows": each.rows, "trajectory": [list(step) for step in each.trajectory], "stopped": each.stopped}
            for name, each in (source.unlearned or {}).items()
        },
    }
