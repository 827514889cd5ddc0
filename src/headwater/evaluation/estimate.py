"""What an evaluation will cost, from small indexes of a few rows and one timed retraining.

    seconds = indexing and scoring + retrainings + grading

    indexing and scoring   each method on two small parts of the corpus, and on from there in proportion to rows
    retrainings            rows that are trained on * seconds a row, divided by the processes
    grading                intervals and plots; tail-patch is not counted

What an earlier call finished in the same folder costs nothing again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from headwater.attribution.estimate import estimate_index
from headwater.evaluation.candidates import CONTROL, Candidate
from headwater.evaluation.costs import grading_seconds
from headwater.evaluation.evaluate import make_settings, prepared
from headwater.evaluation.queries import test_rows
from headwater.evaluation.retraining import Retraining, starting_seconds
from headwater.evaluation.scoring import Asked
from headwater.methods import get_method
from headwater.runs import Corpus, Run

_SMALL, _LARGE = (8, 64, 50), (40, 256, 25)  # rows of the small indexes: least, most, and this part of the corpus


@dataclass(frozen=True)
class EvaluationEstimate:
    """What is still to be done of an evaluation."""

    seconds: float
    """`scoring_seconds + retraining_seconds + grading_seconds`"""
    scoring_seconds: float
    """Of all methods: indexing what they read, and scoring all queries."""
    by_method: Mapping[str, float]
    """The same, one by one; of those that read the same, the first bears the index."""
    retraining_seconds: float
    retrains: int
    """At most: methods that name the same rows share retrainings, which is not known before they are scored."""
    a_retrain_seconds: float
    """Of one on all rows; 0 where none is needed."""
    processes: int
    grading_seconds: float
    probe_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def estimate_evaluation(
    run: Run,
    methods: Sequence[str | Candidate] = ("tracin-we",),
    metrics: Sequence[str] | None = None,
    queries: Corpus | str | Path | int = 20,
    *,
    out: str | Path | None = None,
    scores: Mapping[str, Any] | None = None,
    others: Sequence[Run] = (),
    test: Any = None,
    **settings: Any,
) -> EvaluationEstimate:
    """Estimate what `evaluate` with the same arguments takes. Retrainings that are timed are kept in `out`, if given.

    Raises what `evaluate` raises before its first step: UsageError, DataError, RunError.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="headwater-") as folder:
            given = {"scores": scores, "others": others, "test": test, **settings}
            return estimate_evaluation(run, methods, metrics, queries, out=folder, **given)
    started = time.monotonic()
    chosen = make_settings(settings)
    names, asked, candidates = prepared(run, methods, metrics, queries, Path(out), scores or {}, others, chosen)
    filters = any(metric.need == "filter" for metric in names)
    tests = test_rows(run, asked.queries, test, seed=chosen.seed) if filters else None
    retraining = Retraining(asked, chosen, [metric for metric in names if metric.unit], tests)
    by_method = _scoring(asked, candidates)
    runs = 1 + (len(others) if any(metric.need == "runs" for metric in names) else 0)
    scoring = runs * sum(by_method.values())
    retrains, phases, work, a_row = _retraining(retraining, sum(one.label != CONTROL for one in candidates))
    processes = retraining.processes(work) if work else 1
    seconds = work / processes + phases * starting_seconds(processes)
    grading = grading_seconds(names)
    return EvaluationEstimate(
        seconds=scoring + seconds + grading,
        scoring_seconds=scoring,
        by_method=by_method,
        retraining_seconds=seconds,
        retrains=retrains,
        a_retrain_seconds=a_row * retraining.rows,
        processes=processes,
        grading_seconds=grading,
        probe_seconds=time.monotonic() - started,
    )


def _retraining(retraining: Retraining, methods: int) -> tuple[int, int, float, float]:
    """Retrainings that are left at most, how often processes start for them, seconds one by one, and those of a row."""
    if not retraining.metrics:
        return 0, 0, 0.0, 0.0
    seeds = len(retraining.seeds)
    a_row = retraining.seconds_a_row  # first: what is timed for it is done
    wished = dict.fromkeys(retraining.needs, 0.0)
    for metric, wish in zip(retraining.metrics, retraining.guesses(methods), strict=True):
        wished[metric.need] += wish.cost(wish.most)
    total, cap = sum(wished.values()), retraining.settings.retrains
    share = 1.0 if cap is None or cap >= total else cap / total
    left = work = 0.0
    phases = 0
    for need, most in wished.items():
        done = retraining.done_subsets() if need == "subsets" else len(retraining.done_removals(need))
        missing = max(0.0, share * most - seeds * done)
        left += missing
        phases += missing > 0
        work += missing * a_row * (retraining.kept if need == "subsets" else retraining.rows)
    return round(left), phases, work, a_row


def _scoring(asked: Asked, candidates: Sequence[Candidate]) -> dict[str, float]:
    """Seconds of indexing and scoring, by label."""
    rows = len(asked.run.corpus)
    small, large = (min(max(least, rows // part), most, rows) for least, most, part in (_SMALL, _LARGE))
    found: dict[str, float] = {}
    built: set[Path] = set()
    parts = [(count, *_part(asked, count)) for count in dict.fromkeys((small, large))]
    try:
        for one in candidates:
            if one.method is None or asked.known(one) is not None:
                found[one.label] = 0.0
                continue
            costs = [(count, part.score(one, show=False).cost) for count, part, _ in parts]
            index = [(count, float(cost.index_seconds or 0.0)) for count, cost in costs]
            score = [(count, float(cost.score_seconds or 0.0)) for count, cost in costs]
            found[one.label] = _at(score, rows) + _index_seconds(asked, one, built, index)
    finally:
        for *_, folder in parts:
            folder.cleanup()
    return found


def _index_seconds(asked: Asked, one: Candidate, built: set[Path], timed: Sequence[tuple[int, float]]) -> float:
    folder = asked.index_folder(one)
    if folder is None or folder in built or folder.with_name(folder.name + ".json").is_file():
        return 0.0
    built.add(folder)
    if get_method(str(one.method)).need == "tokens":  # what a row of it costs is better known
        return estimate_index(asked.run, folder, checkpoints=asked.run.checkpoints).seconds
    return _at(timed, len(asked.run.corpus))


def _part(asked: Asked, count: int) -> tuple[Asked, tempfile.TemporaryDirectory[str]]:
    """The same questions to so many rows, evenly spaced."""
    rows = len(asked.run.corpus)
    corpus = asked.run.corpus.take([place * rows // count for place in range(count)])
    folder = tempfile.TemporaryDirectory(prefix="headwater-")
    return replace(asked, run=replace(asked.run, corpus=corpus), folder=Path(folder.name)), folder


def _at(timed: Sequence[tuple[int, float]], rows: int) -> float:
    """Go on from the larger of two sizes in proportion to rows."""
    (small, few), (large, more) = timed[0], timed[-1]
    if large == small:
        return more
    return more + max(more - few, 0.0) / (large - small) * (rows - large)
