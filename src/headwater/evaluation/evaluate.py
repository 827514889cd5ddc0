"""Grade methods on a run: the same retrainings and the same queries for all of them, within a budget.

    1. say what it costs: small indexes of a few rows, one timed retraining
    2. index and score with each method; grade what needs no retraining
    3. divide the time that is left among the metrics; retrain the union of what they need
    4. grade what was retrained, write the table

Every step keeps what it finished under DIR, so that the same call goes on where it was stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import HeadwaterError, StoreError, UsageError
from headwater.evaluation.candidates import Candidate, candidates_of
from headwater.evaluation.ceiling import ceiling
from headwater.evaluation.columns import Column, Graded, Metric, chosen_metrics, empty, graded, result
from headwater.evaluation.evaluation import Evaluation, Used
from headwater.evaluation.metrics.bootstrap import interval
from headwater.evaluation.metrics.lds import lds, noise_corrected
from headwater.evaluation.plan import Removals, Wish, allot
from headwater.evaluation.queries import asked_queries
from headwater.evaluation.removals import (
    Curves,
    Seen,
    deletion_columns,
    leave_one_out_column,
    qld_column,
    rows_left_out,
    wanted,
)
from headwater.evaluation.retraining import Retraining, starting_seconds
from headwater.evaluation.scoring import Asked, Scored, scoring_seconds
from headwater.evaluation.settings import EvaluateSettings, seconds_of
from headwater.evaluation.unretrained import (
    hubness_column,
    noise_column,
    planted_labels,
    stability_columns,
    tail_patch_columns,
)
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
    other seeds, for stability. settings: those of `EvaluateSettings`.

    Raises UsageError where something does not fit or the budget is too small: it says what the least is; and what
    `Index.build`, `RetrainBank` and the metrics raise.
    """
    started = time.monotonic()
    chosen = make_settings(settings)
    names = chosen_metrics(metrics, labels=chosen.noise_column is not None, runs=bool(others))
    asked, candidates = _prepared(run, methods, queries, Path(out), scores or {}, chosen)
    _check(names, asked, others, chosen)
    clock = _Clock(started, None if budget is None else seconds_of(budget))
    retraining = Retraining(asked, chosen, [metric for metric in names if metric.unit])
    forecast = _forecast(retraining, candidates, clock)
    log.info(forecast)
    scored = [asked.score(candidate, show=show) for candidate in candidates]
    plain = [column for metric in names for column in _unretrained(metric, asked, scored, others, chosen, clock, show)]
    removals = {metric.name: wanted(metric.name, scored, chosen) for metric in names if metric.need == "removals"}
    wishes, units = _planned(retraining, removals, clock)
    if retraining.metrics:
        retraining.retrain(units, removals, until=clock.until, show=show)
    found, curves, used, retrains = _retrained(retraining, scored, removals, wishes, units)
    order = [metric.name for metric in names]
    columns = sorted([*found, *plain], key=lambda one: order.index(one.column.metric))
    made = Evaluation(
        run={"name": run.name, "rows": len(run.corpus), "model": _architecture(run),
             "checkpoints": [checkpoint.name for checkpoint in run.checkpoints]},
        queries=len(asked.queries),
        columns=tuple(columns),
        costs=tuple(one.cost for one in scored),
        used=tuple(used),
        retrains=retrains,
        retrain_seconds=retraining.rows * retraining.seconds_a_row if retraining.metrics else None,
        seconds=time.monotonic() - started,
        forecast=forecast,
        settings={**chosen.to_dict(), "budget_seconds": clock.budget, "metrics": order},
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


class _Clock:
    """The time there is, with a part kept for what comes after retraining: grading, and drawing the page."""

    def __init__(self, started: float, budget: float | None) -> None:
        self.started, self.budget = started, budget
        self.reserve = 0.0 if budget is None else min(5.0, 1.5 + 0.02 * budget)

    @property
    def until(self) -> float | None:
        """When retraining must end (time.monotonic())."""
        return None if self.budget is None else self.started + self.budget - self.reserve

    @property
    def left(self) -> float | None:
        """Seconds until then; None: as many as it takes."""
        return None if self.until is None else max(0.0, self.until - time.monotonic())


def _prepared(
    run: Run,
    methods: Sequence[str | Candidate],
    queries: Corpus | str | Path | int,
    out: Path,
    scores: Mapping[str, Any],
    settings: EvaluateSettings,
) -> tuple[Asked, list[Candidate]]:
    corpus = asked_queries(run, queries, seed=settings.seed)
    candidates = candidates_of(run, methods, scores, baselines=settings.baselines, queries=len(corpus))
    name = corpus.columns.label
    labels = None if name is None else corpus.table.column(name).to_pylist()
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out}: is a file. Choose a folder with --out.")
    return Asked(run, corpus, labels, out), candidates


def _check(names: Sequence[Metric], asked: Asked, others: Sequence[Run], settings: EvaluateSettings) -> None:
    """Find before any work what would be found after much of it."""
    needs = {metric.need for metric in names}
    if "labels" in needs:
        if settings.noise_column is None:
            wants = ", ".join(metric.name for metric in names if metric.need == "labels")
            raise UsageError(f"{wants}: name the column that says which labels are wrong (noise_column).")
        planted_labels(asked.run.corpus, settings.noise_column)
    if "runs" in needs and not others:
        raise UsageError("stability: give other runs of the same training, with other seeds (others).")
    for other in others:
        if other.corpus.fingerprint != asked.run.corpus.fingerprint:
            raise UsageError(f"{other.folder}: was trained on other rows than {asked.run.folder}.")
    if needs & {"subsets", "removals", "steps"}:
        asked.run.need_recipe()
    if any(metric.name == "deletion" for metric in names):
        sizes = settings.sizes(len(asked.run.corpus))
        if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] >= len(asked.run.corpus):
            raise UsageError(f"grid must ascend from at least 1 to less than {len(asked.run.corpus):,}, not {sizes}.")


def _forecast(retraining: Retraining, candidates: Sequence[Candidate], clock: _Clock) -> str:
    """Say what all of it costs. Raises UsageError where not even the least fits."""
    settings, methods = retraining.settings, sum(one.label != "random" for one in candidates)
    guesses = retraining.guesses(methods)
    least = sum(wish.cost(min(wish.least, wish.most)) for wish in guesses)
    if settings.retrains is not None and settings.retrains < least:
        each = ", ".join(f"{wish.metric} {wish.cost(min(wish.least, wish.most)):,.0f}" for wish in guesses)
        raise UsageError(f"retrains {settings.retrains:,}: the least is {least:,.0f} ({each}).")
    told = []
    index = 0.0
    if clock.budget is not None or len(retraining.asked.run.corpus) > 1000:
        index = sum(scoring_seconds(retraining.asked, candidates).values())
        told.append(f"Indexing and scoring with {len(candidates)} methods: about {_time(index)}.")
    if not guesses:
        needed = index + clock.reserve
    else:
        model = retraining.rows * retraining.seconds_a_row
        most = sum(wish.cost(wish.most) for wish in guesses)
        capped = most if settings.retrains is None else min(most, settings.retrains)
        processes = retraining.processes(capped * model)
        told.append(
            f"At most {capped:,.0f} retrainings of {_time(model)} or less: {_time(capped * model / processes)} with "
            f"{processes} process{'es' if processes > 1 else ''}."
        )
        needed = index + clock.reserve + 1.25 * least * model
    if clock.budget is None:
        return " ".join(told) or "No retraining is needed."
    if clock.budget < needed:
        what = f"{least:,.0f} retrainings" if guesses else "indexing"
        raise UsageError(
            f"a budget of {_time(clock.budget)} is too small: the least that these methods and metrics need is about "
            f"{_time(math.ceil(needed))} (indexing and scoring {_time(index)}, {what}). Raise it, or name fewer."
        )
    return " ".join([*told, f"Budget {_time(clock.budget)}."])


def _unretrained(
    metric: Metric,
    asked: Asked,
    scored: Sequence[Scored],
    others: Sequence[Run],
    settings: EvaluateSettings,
    clock: _Clock,
    show: bool | None,
) -> list[Graded]:
    if metric.need == "labels":
        wrong = planted_labels(asked.run.corpus, str(settings.noise_column))
        return [noise_column(metric.name, scored, wrong, settings)]
    if metric.need == "scores":
        return [hubness_column(scored, settings)]
    if metric.need == "steps":
        return tail_patch_columns(asked, scored, settings, seconds=clock.left, show=show)
    if metric.need == "runs":
        folders = [asked.folder / "others" / str(number) for number in range(len(others))]
        twins = [replace(asked, run=other, folder=place) for other, place in zip(others, folders, strict=True)]
        return stability_columns(scored, twins, settings, show=show)
    return []


def _planned(
    retraining: Retraining, removals: Mapping[str, Removals], clock: _Clock
) -> tuple[list[Wish], dict[str, int]]:
    """Units for each metric: what both the time that is left and the number of retrainings allow."""
    if not retraining.metrics:
        return [], {}
    wishes = retraining.wishes(removals, seconds=False)
    units = [wish.most for wish in wishes]
    cap = retraining.settings.retrains
    if cap is not None:
        units = allot(wishes, cap)
    if clock.left is not None:
        timed = retraining.wishes(removals, seconds=True)
        capped = [replace(wish, costs=wish.costs[: count + 1]) for wish, count in zip(timed, units, strict=True)]
        processes = retraining.processes(sum(wish.cost(wish.most) for wish in capped))
        seconds = max(0.0, clock.left - starting_seconds(processes)) * processes
        try:
            units = allot(capped, seconds)
        except UsageError:  # indexing took longer than was foretold: as much as can be done is done
            units = [min(wish.least, wish.most) for wish in capped]
    return wishes, {wish.metric: count for wish, count in zip(wishes, units, strict=True)}


def _retrained(
    retraining: Retraining,
    scored: Sequence[Scored],
    removals: Mapping[str, Removals],
    wishes: Sequence[Wish],
    units: Mapping[str, int],
) -> tuple[list[Graded], Curves, list[Used], int]:
    """The columns of what was retrained, in as many units as were finished."""
    made: list[Graded] = []
    curves: Curves = {}
    used: list[Used] = []
    retrains = 0
    seen, sets = _seen(retraining) if removals else None, set()
    seeds = len(retraining.seeds)
    for metric, wish in zip(retraining.metrics, wishes, strict=True):
        if metric.need == "subsets":
            done = min(units[metric.name], retraining.done_subsets())
            retrains += seeds * done
            needed = seeds * done
            made += _lds_columns(retraining, scored, done)
        else:
            assert seen is not None
            done = min(units[metric.name], removals[metric.name].finished(set(seen.sets)))
            mine = removals[metric.name].first(done)
            sets |= set(mine)
            needed = seeds * len(mine)
            columns, drawn = _removal_columns(metric, retraining, scored, seen, done)
            made, curves = [*made, *columns], {**curves, **drawn}
        used.append(Used(metric.name, metric.unit, wish.most, done, needed))
    return made, curves, used, retrains + seeds * len(sets)


def _seen(retraining: Retraining) -> Seen:
    bank = retraining.named
    return Seen(bank.results(seeds=retraining.seeds), bank.protocol)


def _removal_columns(
    metric: Metric, retraining: Retraining, scored: Sequence[Scored], seen: Seen, done: int
) -> tuple[list[Graded], Curves]:
    settings = retraining.settings
    if done < metric.least:
        column = Column(metric.name, metric.name, "", seen.protocol, metric.summary)
        return [empty(column, scored, f"too few {metric.unit} were finished in the time there was ({done}).")], {}
    if metric.name == "deletion":
        return deletion_columns(scored, seen, done, settings)
    if metric.name == "qld":
        return [qld_column(scored, seen, done, settings)], {}
    return [leave_one_out_column(scored, seen, rows_left_out(retraining.rows, settings)[:done], settings)], {}


def _lds_columns(retraining: Retraining, scored: Sequence[Scored], done: int) -> list[Graded]:
    """LDS on the first `done` subsets, its ceiling, and the value without the noise of retraining."""
    settings, bank = retraining.settings, retraining.drawn
    seeds = len(retraining.seeds)
    protocol = f"{bank.protocol}; {done:,} subsets, {seeds} seed{'s' if seeds > 1 else ''} each; {settings.measure}"
    about = "rank correlation of a subset's summed scores with what retraining on it gives, mean over queries"
    column = Column("lds", "lds", "higher", protocol, about)
    if done < 3:
        return [empty(column, scored, f"too few subsets were finished in the time there was ({done}).")]
    found = bank.results(seeds=retraining.seeds)
    names = {"loss": found.losses, "margin": found.margins, "probability": found.probabilities}
    outputs, masks = names[settings.measure][:done], found.masks[:done]
    try:
        limit = ceiling(outputs, seed=settings.seed) if seeds > 1 else None
        column = replace(column, ceiling=None if limit is None else limit.to_dict())
        made = graded(
            column, scored, lambda one: lds(one.scores, masks, outputs, measure=settings.measure), seed=settings.seed
        )
    except HeadwaterError as error:
        return [empty(column, scored, str(error))]
    if limit is None:
        return [made]
    highest = limit.mean.value
    return [made, _corrected(made, scored, highest, settings)]


def _corrected(made: Graded, scored: Sequence[Scored], highest: float, settings: EvaluateSettings) -> Graded:
    about = f"lds divided by the noise ceiling {highest:.3g}: 1 is all that this bank lets anyone reach"
    column = Column("lds corrected", "lds", "higher", made.column.protocol, about)
    notes = [] if highest > 0 else ["These retrainings agree on nothing: their noise is all there is."]
    results = []
    for one in scored:
        values = made.values[one.candidate.label]
        known = np.array([np.nan if value is None else value for value in values])
        plain = interval(known, seed=settings.seed)
        results.append(result(column, one, noise_corrected(plain, highest), notes))
    return Graded(column, tuple(results))


def _architecture(run: Run) -> str:
    return str((run.checkpoints[-1].config.architectures or ["?"])[0])


def _time(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.1f} h"
