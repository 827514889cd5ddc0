"""What is measured on labels of which a part was flipped: are the flips found, and does removing what is found help?

A column is the scores of all rows with one query at one group of layers ("every group": those of each group apart).
Columns are put together by mean, rank or vote, over all queries or over those that the run predicts right ("-c").
Source: Vitel & Chhabra 2026 (arXiv 2511.04715).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from headwater.attribution.aggregate import Aggregation, Columns
from headwater.evaluation.bank import RetrainBank, remove
from headwater.evaluation.candidates import CONTROL, Candidate
from headwater.evaluation.first_vs_last.layers import ALL, BASELINES, named
from headwater.evaluation.first_vs_last.measured import Measured, Pair, Statistic, of_statistics, of_units
from headwater.evaluation.first_vs_last.settings import HOWS, StudySettings
from headwater.evaluation.first_vs_last.variants import Variant
from headwater.evaluation.metrics.bootstrap import Interval
from headwater.evaluation.metrics.filtering import kept_rows
from headwater.evaluation.metrics.label_noise import auc_ndr, ndr, win_rate
from headwater.evaluation.scoring import Asked
from headwater.models.load import load_model
from headwater.runs import Corpus
from headwater.training import predict

EVERY = "every group"
UNTOUCHED, REPAIRED = "nothing removed", "the flips removed"
_SHARE = 0.2  # of the rows that a column votes against

Contributions = dict[str, Float64[np.ndarray, "queries rows"]]
"""By candidate: what each query adds to the order of the rows; several columns of a query added up."""


@dataclass(frozen=True)
class Noisy:
    """The scores of everything, on the run with flipped labels."""

    variant: Variant
    by_how: Mapping[Aggregation, Contributions]
    right: Bool[np.ndarray, " queries"]
    """Whether the run predicts the query's label."""


def score_noisy(
    variant: Variant,
    queries: Corpus,
    candidates: Sequence[Candidate],
    methods: Sequence[str],
    folder: Path,
    *,
    show: bool | None,
) -> Noisy:
    """Score the clean queries with the rows of which some were flipped, and take the columns apart."""
    run = variant.noisy
    assert run is not None
    assert queries.columns.label is not None
    labels = queries.table.column(queries.columns.label).to_pylist()
    asked = Asked(run, queries, labels, folder / "noise")
    every = [*candidates, *(Candidate(name, name) for name in BASELINES)]
    scores = {one.label: asked.score(one, show=show).scores for one in every}
    by_how: dict[Aggregation, Contributions] = {}
    for how in HOWS:
        columns = Columns(how, _SHARE, len(run.corpus))
        by_how[how] = {label: np.stack([columns.of(row) for row in each]) for label, each in scores.items()}
        for method in methods:
            apart = [by_how[how][one.label] for one in candidates if _of(one, method) not in ("", ALL)]
            by_how[how][named(method, EVERY)] = np.sum(apart, axis=0)
    last = load_model(run.checkpoints[-1].path, run.task.auto)
    right = predict(last, run.tokenizer, run.task, queries, show=show).correct
    return Noisy(variant, by_how, right)


def grade_noise(noisy: Noisy, pairs: Sequence[Pair], settings: StudySettings) -> list[Measured]:
    """NDR@30 and AUC_NDR, for each way of putting columns together; intervals draw queries."""
    flipped = noisy.variant.flipped
    told = f"{int(flipped.sum()):,} of {len(flipped):,} labels flipped; {{}}"
    made = []
    asked = {"": np.ones_like(noisy.right), "-c": noisy.right}
    measures: dict[str, tuple[Callable[..., float], str]] = {
        "ndr@30": (ndr, "share of the flips among the 30% of rows that stand lowest; chance 0.3"),
        "auc-ndr": (auc_ndr, f"area under that curve; perfect 1, chance {1 / (2 - flipped.mean()):.3f}"),
    }
    for metric, (measure, about) in measures.items():
        for suffix, which in asked.items():
            if not which.any():
                continue
            for how, contributions in noisy.by_how.items():
                statistics = {label: _statistic(each[which], flipped, measure) for label, each in contributions.items()}
                count = int(which.sum())
                values, differences = of_statistics(statistics, count, pairs, seed=settings.seed)
                note = told.format(f"{count:,} clean queries" + (" that the run predicts right" if suffix else ""))
                made.append(
                    Measured(noisy.variant.embeddings, "noise", f"{metric} {how}{suffix}", "higher", about,
                             f"{note}; rows by the {how} of their scores", values, differences)
                )  # fmt: skip
    return made


def filter_sets(noisy: Noisy, settings: StudySettings) -> dict[str, dict[str, tuple[int, ...]]]:
    """The rows that each candidate would drop, by aggregation and candidate; with random drops and both limits."""
    rows = len(noisy.variant.flipped)
    generator = np.random.default_rng([settings.seed, 4])
    gone = round(settings.filter_share * rows)
    sets: dict[str, dict[str, tuple[int, ...]]] = {
        how: {
            label: _dropped(each.mean(axis=0), rows, settings)
            for label, each in contributions.items()
            if label != CONTROL
        }
        for how, contributions in noisy.by_how.items()
    }
    sets["reference"] = {UNTOUCHED: (), REPAIRED: tuple(np.flatnonzero(noisy.variant.flipped).tolist())}
    for draw in range(settings.draws):
        sets["reference"][f"{CONTROL} {draw}"] = tuple(sorted(generator.permutation(rows)[:gone].tolist()))
    return sets


def filter_cost(sets: Mapping[str, Mapping[str, tuple[int, ...]]], settings: StudySettings) -> int:
    """Retrainings of `grade_filtering`."""
    return settings.filter_seeds * len({each for some in sets.values() for each in some.values()})


def grade_filtering(
    noisy: Noisy,
    sets: Mapping[str, Mapping[str, tuple[int, ...]]],
    test: Corpus,
    pairs: Sequence[Pair],
    folder: Path,
    settings: StudySettings,
    *,
    show: bool | None,
) -> list[Measured]:
    """Accuracy at the end of trainings without the lowest rows; the interval draws test rows, seeds averaged."""
    run = noisy.variant.noisy
    assert run is not None
    bank = RetrainBank.create(
        run,
        folder / "filtering",
        test,
        protocol=remove(),
        subsets=list(dict.fromkeys(each for some in sets.values() for each in some.values())),
        seeds=settings.filter_seeds,
        arithmetic=settings.arithmetic,
    )
    bank.fill(processes=settings.processes, show=show)
    found = bank.results(seeds=range(settings.filter_seeds))
    at = {removal: place for place, removal in enumerate(found.removals)}
    right: dict[tuple[str, str], Float64[np.ndarray, "seeds tests"]] = {
        (how, label): found.correct[at[removal]].astype(np.float64)
        for how, some in sets.items()
        for label, removal in some.items()
    }
    reference = {UNTOUCHED: right["reference", UNTOUCHED], REPAIRED: right["reference", REPAIRED]}
    reference[CONTROL] = np.mean(
        [each for (how, label), each in right.items() if how == "reference" and label.startswith(CONTROL)], axis=0
    )
    gone, rows = round(settings.filter_share * len(run.corpus)), len(run.corpus)
    note = (
        f"the {gone:,} lowest of {rows:,} rows removed, {settings.filter_seeds} seeds (same first weights), "
        f"{settings.draws} random removals; {len(test):,} test rows"
    )
    about = "accuracy on clean test rows at the end of a training without the rows that stand lowest"
    made = []
    trials: dict[str, list[float]] = {}
    for how in HOWS:
        units = {**{label: right[how, label] for label in sets[how]}, **reference}
        means = {label: each.mean(axis=0) for label, each in units.items()}
        values, differences = of_units(means, [*pairs, *_against_random(means)], seed=settings.seed)
        made.append(
            Measured(noisy.variant.embeddings, "filtering", f"accuracy {how}", "higher", about, note, values,
                     differences)
        )  # fmt: skip
        for label in (*sets[how], CONTROL):
            trials.setdefault(label, []).extend(units[label].mean(axis=1).tolist())
    return [*made, _wins(noisy.variant, trials, note)]


def _wins(variant: Variant, trials: Mapping[str, list[float]], note: str) -> Measured:
    rates = win_rate(np.array(list(trials.values())))
    nothing = float("nan")
    values = {
        label: Interval(float(rate), nothing, nothing, len(trials[label]))
        for label, rate in zip(trials, rates, strict=True)
    }
    count = len(next(iter(trials.values())))
    about = f"mean over rivals of the share of {count} trials (aggregation, seed) with the higher accuracy"
    return Measured(variant.embeddings, "filtering", "win rate", "higher", about, note, values)


def _against_random(units: Mapping[str, object]) -> list[Pair]:
    return [(label, CONTROL) for label in units if label not in (CONTROL, UNTOUCHED, REPAIRED)]


def _statistic(
    each: Float64[np.ndarray, "queries rows"], flipped: Bool[np.ndarray, " rows"], measure: Callable[..., float]
) -> Statistic:
    def asked(counts: Float64[np.ndarray, "draws queries"]) -> Float64[np.ndarray, " draws"]:
        return np.array([measure(scores, flipped) for scores in counts @ each])

    return asked


def _dropped(scores: Float64[np.ndarray, " rows"], rows: int, settings: StudySettings) -> tuple[int, ...]:
    kept = kept_rows(scores, share=settings.filter_share, seed=settings.seed)
    return tuple(np.setdiff1d(np.arange(rows), kept).tolist())


def _of(candidate: Candidate, method: str) -> str:
    """The group of layers of a candidate of this method, else ""."""
    name, _, group = candidate.label.partition(" ")
    return group if name == method else ""
