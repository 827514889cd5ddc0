"""Grade methods on a run: the same retrainings and the same queries for all of them, within a budget.

    1. say what it costs: small indexes of a few rows, one timed retraining
    2. index and score with each method; grade what needs no retraining
    3. divide the time that is left among the metrics; retrain the union of what they need
    4. grade what was retrained, write the table

Every step keeps what it finished under DIR, so that the same call goes on where it was stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from headwater.errors import StoreError, UsageError
from headwater.evaluation.candidates import Candidate, candidates_of
from headwater.evaluation.checks import check
from headwater.evaluation.columns import Graded, Metric, chosen_metrics
from headwater.evaluation.costs import Clock, forecast, retrain_within
from headwater.evaluation.evaluation import Evaluation
from headwater.evaluation.facts import fact_columns, right_rows
from headwater.evaluation.grading import retrained_columns
from headwater.evaluation.late import cost_of, scored_within, with_late
from headwater.evaluation.queries import asked_queries, test_rows
from headwater.evaluation.retraining import Retraining
from headwater.evaluation.scoring import Asked, Scored
from headwater.evaluation.settings import EvaluateSettings, seconds_of
from headwater.evaluation.unretrained import (
    hubness_column,
    noise_column,
    planted_labels,
    stability_columns,
    tail_patch_columns,
)
from headwater.evaluation.wanted import wanted
from headwater.runs import Corpus, Run

log = logging.getLogger("headwater")


def evaluate(
    run: Run,
    methods: Sequence[str | Candidate] = ("tracin-we",),
    metrics: Sequence[str] | None = None,
    queries: Corpus | str | Path | int = 20,
    *,
    out: str | Path,
    budget: str | float | None = None,
    scores: Mapping[str, Any] | None = None,
    others: Sequence[Run] = (),
    test: Corpus | str | Path | int | None = None,
    begun: float | None = None,
    command: str | None = None,
    show: bool | None = None,
    **settings: Any,
) -> Evaluation:
    """Grade `methods` by `metrics`; write table, page and everything that can be used again into `out`.

    methods: names, with options as "tracin/layers=quarter:2"; random and the lexical baselines are graded too
    (`baselines=False`: not). metrics: None for lds and hubness, and those that the given columns and runs allow.
    queries: a Corpus, a file with the run's columns, or how many rows to draw of the run's evaluation rows; their
    labels are what is explained. budget: seconds, or "10m"; None takes as long as it takes. scores: matrices of other
    tools, [queries, rows], positive for proponents, or paths of .npy files. others: runs of the same training with
    other seeds, for stability. test: rows that filtering asks about, or how many to draw of the run's evaluation rows;
    never one of the queries. begun: when the budget began to run (time.monotonic()), if not now. settings: those of
    `EvaluateSettings`.

    Raises UsageError where something does not fit or the budget is too small: it says what the least is; and what
    `Index.build`, `RetrainBank` and the metrics raise.
    """
    started = time.monotonic() if begun is None else begun
    chosen = make_settings(settings)
    names, asked, candidates = prepared(run, methods, metrics, queries, Path(out), scores or {}, others, chosen)
    filters = any(metric.need == "filter" for metric in names)
    tests = test_rows(run, asked.queries, test, seed=chosen.seed) if filters else None
    clock = Clock(started, None if budget is None else seconds_of(budget), names)
    retraining = Retraining(asked, chosen, [metric for metric in names if metric.unit], tests)
    told = forecast(retraining, candidates, clock)
    log.info(told)
    scored, late = scored_within(asked, candidates, clock, show)
    plain = [column for metric in names for column in _unretrained(metric, asked, scored, others, chosen, clock, show)]
    removals = {
        metric.name: wanted(metric, asked, scored, chosen) for metric in retraining.metrics if metric.need != "subsets"
    }
    wishes, units = retrain_within(retraining, removals, clock, show)
    found, curves, used, retrains = retrained_columns(retraining, scored, removals, wishes, units)
    order = [metric.name for metric in names]
    filled = sorted([*found, *plain], key=lambda one: order.index(one.column.metric))
    made = Evaluation(
        run={"name": run.name, "rows": len(run.corpus), "model": _architecture(run),
             "checkpoints": [checkpoint.name for checkpoint in run.checkpoints]},
        queries=len(asked.queries),
        columns=tuple(with_late(one, late, candidates) for one in filled),
        costs=tuple(cost_of(scored, candidate) for candidate in candidates),
        used=tuple(used),
        retrains=retrains,
        retrain_seconds=retraining.seconds_each(),
        seconds=time.monotonic() - started,
        forecast=told,
        settings={**chosen.to_dict(), "budget_seconds": clock.budget, "metrics": order,
                  "test_rows": None if tests is None else len(tests)},
        curves=curves,
        notes=tuple(run.warnings),
    )  # fmt: skip
    made.save(out, command=command)
    return made


def make_settings(given: Mapping[str, Any]) -> EvaluateSettings:
    """Make settings. Raises UsageError naming an unknown one and those there are."""
    known = [entry.name for entry in fields(EvaluateSettings)]
    for name in given:
        if name not in known:
            raise UsageError(f"there is no setting {name!r}. There are: {', '.join(known)}.")
    return EvaluateSettings(**given)


def prepared(
    run: Run,
    methods: Sequence[str | Candidate],
    metrics: Sequence[str] | None,
    queries: Corpus | str | Path | int,
    out: Path,
    scores: Mapping[str, Any],
    others: Sequence[Run],
    settings: EvaluateSettings,
) -> tuple[list[Metric], Asked, list[Candidate]]:
    """Choose the metrics, read the queries, make what is graded, and check that all of it fits together.

    Raises UsageError, DataError, RunError, StoreError.
    """
    columns = {"labels": settings.noise_column, "facts": settings.fact_column, "groups": settings.group_column}
    given = {name: column is not None for name, column in columns.items()}
    names = chosen_metrics(metrics, runs=bool(others), **given)
    corpus = asked_queries(run, queries, seed=settings.seed)
    candidates = candidates_of(run, methods, scores, baselines=settings.baselines, queries=len(corpus))
    name = corpus.columns.label
    labels = None if name is None else corpus.table.column(name).to_pylist()
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out}: is a file. Choose a folder with --out.")
    asked = Asked(run, corpus, labels, out)
    check(names, asked, candidates, others, settings)
    return names, asked, candidates


def _unretrained(
    metric: Metric,
    asked: Asked,
    scored: Sequence[Scored],
    others: Sequence[Run],
    settings: EvaluateSettings,
    clock: Clock,
    show: bool | None,
) -> list[Graded]:
    if metric.need == "labels":
        wrong = planted_labels(asked.run.corpus, str(settings.noise_column))
        return [noise_column(metric.name, scored, wrong, settings)]
    if metric.need == "facts":
        right = right_rows(asked.run.corpus, asked.queries, str(settings.fact_column))
        return fact_columns(scored, right, settings)
    if metric.need == "scores":
        return [hubness_column(scored, settings)]
    if metric.need == "steps":
        return tail_patch_columns(asked, scored, settings, seconds=clock.left, show=show)
    if metric.need == "runs":
        folders = [asked.folder / "others" / str(number) for number in range(len(others))]
        twins = [replace(asked, run=other, folder=place) for other, place in zip(others, folders, strict=True)]
        return stability_columns(scored, twins, settings, show=show)
    return []


def _architecture(run: Run) -> str:
    return str((run.checkpoints[-1].config.architectures or ["?"])[0])
