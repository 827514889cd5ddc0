"""The columns that need no retraining: planted labels, tail-patch, hubness, stability."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from headwater.errors import DataError, HeadwaterError
from headwater.evaluation.columns import Column, Graded, empty, graded, result
from headwater.evaluation.metrics.bootstrap import Interval, interval_of
from headwater.evaluation.metrics.hubness import hubness
from headwater.evaluation.metrics.label_noise import auc_ndr, mislabel_auc, ndr
from headwater.evaluation.metrics.stability import stability, top_overlap
from headwater.evaluation.metrics.tail_patch import TailPatch, tail_patch
from headwater.evaluation.numbers import counted
from headwater.evaluation.scoring import Asked, Scored
from headwater.evaluation.settings import EvaluateSettings
from headwater.files import canonical_json, digest, read_json, write_json
from headwater.runs import Corpus, text_task

_CELLS = 5e8  # rows times draws of the bootstrap of a number over all rows, at most
_STEPS = 0.25  # of the time that is left, at most, goes to tail-patch


def planted_labels(corpus: Corpus, column: str) -> Bool[np.ndarray, " rows"]:
    """Read which labels are wrong: booleans, or 0 and 1. Raises DataError."""
    if column not in corpus.table.column_names:
        names = ", ".join(corpus.table.column_names)
        raise DataError(f"{corpus.name}: has no column {column!r} that says which labels are wrong. It has: {names}.")
    values = corpus.table.column(column).to_pylist()
    for row, value in enumerate(values):
        if value not in (True, False):  # 0 and 1 are equal to these
            raise DataError.at(corpus.name, f"{value!r} is neither true nor false.", row=row + 1, column=column)
    wrong = np.array(values, dtype=np.bool_)
    if wrong.all() or not wrong.any():
        raise DataError(f"{corpus.name}, column {column!r}: marks {int(wrong.sum()):,} of {len(wrong):,} rows; it must "
                        "mark some, and not all.")  # fmt: skip
    return wrong


_NOISE: dict[str, tuple[Callable[..., float], str]] = {
    "ndr": (ndr, "share of all wrong labels that stand among the lowest 30% of rows; chance 0.3"),
    "auc-ndr": (auc_ndr, "area under the detection curve; a perfect order gets 1"),
    "mislabel": (mislabel_auc, "chance that a wrong row stands below a right one; chance 0.5, perfect 1"),
}


def noise_column(
    metric: str, scored: Sequence[Scored], wrong: Bool[np.ndarray, " rows"], settings: EvaluateSettings
) -> Graded:
    """NDR@30, AUC_NDR or the AUC of the mean score over queries; the interval draws queries."""
    measure, about = _NOISE[metric]
    protocol = (
        f"{int(wrong.sum()):,} of {len(wrong):,} labels wrong; rows by their mean score over queries, lowest first"
    )
    name = "ndr@30" if metric == "ndr" else metric
    column = Column(name, metric, "higher", protocol, about)

    def found(one: Scored) -> Interval:
        queries, rows = one.scores.shape
        wide = one.scores.astype(np.float64)
        draws = int(min(1000, max(100, _CELLS // (rows * queries))))

        def statistic(at: np.ndarray) -> float:
            counts = np.bincount(at, minlength=queries)
            return measure(counts @ wide / queries, wrong)

        return interval_of(queries, statistic, draws=draws, seed=settings.seed)

    return Graded(column, tuple(result(column, one, found(one)) for one in scored))


def hubness_column(scored: Sequence[Scored], settings: EvaluateSettings) -> Graded:
    """How many different rows the top lists have, as a share of what random lists would."""
    queries, rows = scored[0].scores.shape
    k = min(settings.k, rows)
    about = f"different rows in the top-{k} lists of all queries, as a share of what random lists have; 1: no hubs"
    column = Column("distinct rows", "hubness", "", f"top {k} of {rows:,} rows, {counted(queries, 'query')}", about)
    results = []
    for one in scored:
        found = hubness(one.scores, k=k, seed=settings.seed)
        note = (
            f"{found.distinct:,} different rows in {found.places:,} places (random lists: {found.by_chance:,.0f}); "
            f"row {found.row:,} is in {found.largest:.0%} of the lists."
        )
        value = found.distinct / found.by_chance
        results.append(result(column, one, Interval(value, np.nan, np.nan, queries), [note]))
    return Graded(column, tuple(results))


def stability_columns(
    scored: Sequence[Scored], others: Sequence[Asked], settings: EvaluateSettings, *, show: bool | None
) -> list[Graded]:
    """Agreement with the scores of other runs."""
    runs, rows = len(others) + 1, scored[0].scores.shape[1]
    k = min(settings.k, rows)
    protocol = f"{runs} runs, all pairs"
    whole = Column("stability", "stability", "higher", protocol, "rank correlation of the scores of two seeds' runs")
    about = f"share of the top {k} rows that two seeds' runs have in common; chance {k / rows:.3g}"
    top = Column(f"overlap@{k}", "stability", "higher", protocol, about, main=False)
    matrices: dict[str, Float32[np.ndarray, "runs queries rows"]] = {}
    for one in scored:
        if one.candidate.method is not None:
            their = [asked.score(one.candidate, show=show).scores for asked in others]
            matrices[one.candidate.label] = np.stack([one.scores, *their])
    nothing = np.full(len(scored[0].scores), np.nan)

    def by(measure: Callable[[np.ndarray], Float64[np.ndarray, " queries"]]) -> Callable[[Scored], np.ndarray]:
        return lambda one: measure(matrices[one.candidate.label]) if one.candidate.label in matrices else nothing

    return [
        graded(whole, scored, by(stability), seed=settings.seed),
        graded(top, scored, by(lambda each: top_overlap(each, k=k, seed=settings.seed)), seed=settings.seed),
    ]


def tail_patch_columns(
    asked: Asked, scored: Sequence[Scored], settings: EvaluateSettings, *, seconds: float | None, show: bool | None
) -> list[Graded]:
    """One more step on each top row. Within `seconds` (None: as long as it takes), with fewer queries if need be."""
    k = min(settings.k, len(asked.run.corpus))
    about = f"mean rise of the target's probability after one step on each of the top {k} rows; compare with random"
    logs = "the same of its log-probability in nats, mean over the target's tokens"
    better = "higher"
    classes = text_task(asked.run.task) is None
    try:
        count = _affordable(asked, scored, k, settings, seconds)
        found = {one.candidate.label: _kept(asked, one, k, count, settings, show) for one in scored}
    except HeadwaterError as error:
        return [empty(Column("tail-patch", "tail-patch", better, "", about), scored, str(error))]  # type: ignore[arg-type]
    first = next(iter(found.values()))
    state = "its state" if first["resumed"] else "no state (it was not kept)"
    step = f"one step of the run's optimizer, with {state}, from the last checkpoint"
    protocol = f"{step}; top {k} rows, {counted(count, 'query')}"
    columns = [
        Column("tail-patch", "tail-patch", "higher", protocol, about, main=classes),
        Column("tail-patch log", "tail-patch", "higher", protocol, logs, main=not classes),
    ]
    names = ("probability", "log_probability")
    return [
        graded(column, scored, _of(found, name), seed=settings.seed)
        for column, name in zip(columns, names, strict=True)
    ]  # fmt: skip


def _of(found: dict[str, dict[str, Any]], name: str) -> Callable[[Scored], np.ndarray]:
    return lambda one: np.array(found[one.candidate.label][name])


def _kept(
    asked: Asked, one: Scored, k: int, count: int, settings: EvaluateSettings, show: bool | None
) -> dict[str, Any]:
    """What was found before is taken from DIR/results; it depends on the scores, not on the method's name."""
    key = digest([asked.key, one.key, canonical_json([k, count, settings.seed])])
    path: Path = asked.folder / "results" / f"tail-patch-{one.candidate.slug}.json"
    if path.is_file():
        try:
            told: dict[str, Any] = read_json(path)
            if told.get("key") == key:
                return told
        except HeadwaterError:
            pass  # damaged: measured again
    some = asked.queries.take(range(count))
    found: TailPatch = tail_patch(asked.run, some, one.scores[:count], k=k, seed=settings.seed, show=show)
    made: dict[str, Any] = {
        "probability": found.mean().tolist(),
        "log_probability": found.log_probability.mean(axis=1).tolist(),
        "resumed": found.resumed,
    }
    write_json(path, {"key": key, **made})
    return made


def _affordable(
    asked: Asked, scored: Sequence[Scored], k: int, settings: EvaluateSettings, seconds: float | None
) -> int:
    """How many queries there is time for, from one query's own lists."""
    queries = len(asked.queries)
    if seconds is None or queries == 1:
        return queries
    started = time.monotonic()
    tail_patch(asked.run, asked.queries.take([0]), scored[0].scores[:1], k=k, seed=settings.seed, show=False)
    took = time.monotonic() - started
    return int(min(queries, max(1, _STEPS * seconds / (took * len(scored)))))
