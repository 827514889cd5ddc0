"""First or last? One command that asks both papers' questions of one run, with word embeddings trained and frozen.

    lds         do sums of scores foretell what retraining on random halves gives?
    deletion    retrain without a query's highest and lowest rows            Yeh et al. 2022 (arXiv 2202.11844)
    noise       flip a fifth of the labels: do the flips stand lowest?       Vitel & Chhabra 2026 (arXiv 2511.04715)
    filtering   retrain without the lowest 30%: accuracy at the end          the same

Asked of the word embeddings, each quarter of depth (of a model without blocks: all between), the last layer and all
of them. Everything finished is kept under DIR; the same call goes on where it was stopped.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from headwater.errors import DataError, HeadwaterWarning, UsageError
from headwater.evaluation.candidates import Candidate
from headwater.evaluation.evaluation import Evaluation
from headwater.evaluation.first_vs_last.clean import deletion_cost, grade_deletion, grade_lds
from headwater.evaluation.first_vs_last.layers import at_layers, layer_groups, pairs_of
from headwater.evaluation.first_vs_last.measured import Measured, Pair
from headwater.evaluation.first_vs_last.noise import filter_cost, filter_sets, grade_filtering, grade_noise, score_noisy
from headwater.evaluation.first_vs_last.settings import StudySettings
from headwater.evaluation.first_vs_last.variants import Variant, make_variants
from headwater.evaluation.queries import asked_queries
from headwater.evaluation.scoring import Cost
from headwater.files import write_json, write_text
from headwater.models.load import load_model
from headwater.runs import Corpus, Run, text_task
from headwater.training import predict

log = logging.getLogger("headwater")
JSON, HTML, MARKDOWN = "first-vs-last.json", "first-vs-last.html", "first-vs-last.md"


@dataclass(frozen=True)
class Training:
    """What one way of training gave."""

    embeddings: str
    checkpoints: tuple[str, ...]
    accuracy: float
    """On the test rows, trained on the labels as they are."""
    noisy_accuracy: float | None
    """The same, trained on the flipped labels."""
    retrains: int


@dataclass(frozen=True)
class Study:
    """All that was measured."""

    run: Mapping[str, Any]
    groups: Mapping[str, str]
    queries: int
    tests: int
    trainings: tuple[Training, ...]
    measured: tuple[Measured, ...]
    costs: tuple[Cost, ...]
    settings: Mapping[str, Any]
    seconds: float

    @property
    def retrains(self) -> int:
        """Different retrainings that it rests on."""
        return sum(each.retrains for each in self.trainings)

    def one(self, embeddings: str, metric: str) -> Measured:
        """One metric on one training. Raises KeyError."""
        for each in self.measured:
            if (each.embeddings, each.metric) == (embeddings, metric):
                return each
        raise KeyError(f"{metric}, embeddings {embeddings}")

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        return {
            "run": dict(self.run),
            "groups": dict(self.groups),
            "queries": self.queries,
            "tests": self.tests,
            "trainings": [{**vars(each), "checkpoints": list(each.checkpoints)} for each in self.trainings],
            "measured": [each.to_dict() for each in self.measured],
            "costs": [cost.to_dict() for cost in self.costs],
            "settings": dict(self.settings),
            "retrains": self.retrains,
            "seconds": self.seconds,
        }

    def save(self, folder: str | Path, *, command: str | None = None) -> None:
        """Write first-vs-last.json, .md (tables) and .html (the page) into `folder`."""
        from headwater.evaluation.first_vs_last.report import render_page
        from headwater.evaluation.first_vs_last.tables import render_markdown

        place = Path(folder)
        write_json(place / JSON, self.to_dict())
        write_text(place / MARKDOWN, render_markdown(self, command=command))
        write_text(place / HTML, render_page(self, command=command))


def first_vs_last(
    run: Run,
    queries: Corpus | str | Path | int = 60,
    *,
    out: str | Path,
    command: str | None = None,
    show: bool | None = None,
    **settings: Any,
) -> Study:
    """Compare the layers of `run` by what retraining says; write tables and a page into `out`.

    queries: rows with labels, or how many to draw of the run's evaluation rows; the other evaluation rows are what
    accuracy is measured on. settings: those of `StudySettings`.

    Raises UsageError, DataError, and RunError where the run cannot be trained again.
    """
    started = time.monotonic()
    chosen, out = study_settings(settings), Path(out)
    if text_task(run.task) is not None:
        raise UsageError(f"{run.folder}: first-vs-last flips labels; a {run.task.kind} task has none.")
    asked = asked_queries(run, queries, seed=chosen.seed)
    test = _others(run, asked)
    groups = layer_groups(run)
    candidates = at_layers(chosen.methods, groups, dim=chosen.dim)
    pairs = pairs_of(chosen.methods, groups)
    log.info(_forecast(candidates, len(run.corpus), len(asked), chosen))
    measured: list[Measured] = []
    trainings: list[Training] = []
    costs: tuple[Cost, ...] = ()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*embeddings", category=HeadwaterWarning)
        variants = make_variants(run, out / "runs", chosen, show=show)
        for number, variant in enumerate(variants):
            part = _Part(variant, asked, test, candidates, pairs, out / variant.embeddings, chosen, len(variants))
            found, retrains, made = part.grade(show=show)
            measured += found
            costs = costs or (made.costs if made else ())
            trainings.append(_training(variant, test, retrains, show))
            log.info(f"{number + 1} of {len(variants)} trainings graded ({variant.embeddings} word embeddings).")
    study = Study(
        run={"name": run.name, "rows": len(run.corpus), "labels": [str(name) for name in run.corpus.label_names()],
             "model": str((run.checkpoints[-1].config.architectures or ["?"])[0])},
        groups=groups,
        queries=len(asked),
        tests=len(test),
        trainings=tuple(trainings),
        measured=tuple(measured),
        costs=costs,
        settings=chosen.to_dict(),
        seconds=time.monotonic() - started,
    )  # fmt: skip
    study.save(out, command=command)
    return study


def study_settings(given: Mapping[str, Any]) -> StudySettings:
    """Make settings. Raises UsageError naming an unknown one and those there are."""
    known = [entry.name for entry in fields(StudySettings)]
    for name in given:
        if name not in known:
            raise UsageError(f"first-vs-last has no setting {name!r}. There are: {', '.join(known)}.")
    return StudySettings(**given)


@dataclass(frozen=True)
class _Part:
    """One way of training, and all that is asked of it."""

    variant: Variant
    queries: Corpus
    test: Corpus
    candidates: Sequence[Candidate]
    pairs: Sequence[Pair]
    folder: Path
    settings: StudySettings
    parts: int

    def grade(self, *, show: bool | None) -> tuple[list[Measured], int, Evaluation | None]:
        """Everything that was asked for, and how many retrainings that took."""
        settings, measured, retrains = self.settings, [], 0
        lds: Evaluation | None = None
        given = (self.variant, self.queries, self.candidates)
        if {"noise", "filtering"} & set(settings.protocols):
            noisy = score_noisy(*given, settings.methods, self.folder, show=show)
            measured += grade_noise(noisy, self.pairs, settings) if "noise" in settings.protocols else []
        if "lds" in settings.protocols:
            found, lds = grade_lds(*given, self.pairs, self.folder, settings, show=show)
            measured, retrains = [*measured, *found], retrains + lds.retrains
        if "filtering" in settings.protocols:
            sets = filter_sets(noisy, settings)
            measured += grade_filtering(noisy, sets, self.test, self.pairs, self.folder, settings, show=show)
            retrains += filter_cost(sets, settings)
        if "deletion" in settings.protocols:
            left = None if settings.retrains is None else settings.retrains // self.parts - retrains
            found, deletion = grade_deletion(*given, self.pairs, self.folder, settings, retrains=left, show=show)
            measured, retrains = [*measured, *found], retrains + deletion.retrains
        return measured, retrains, lds


def _others(run: Run, asked: Corpus) -> Corpus:
    """The evaluation rows that are not asked about. Raises DataError where there are none."""
    texts = {(example.text, example.text_pair) for example in asked}
    there = run.eval_corpus
    rows = [] if there is None else [each.row for each in there if (each.text, each.text_pair) not in texts]
    if there is None or not rows:
        raise DataError(
            f"{run.folder}: keeps no evaluation rows beside the queries to measure accuracy on. Train with --eval, and "
            "ask fewer queries."
        )
    return there.take(rows)


def _training(variant: Variant, test: Corpus, retrains: int, show: bool | None) -> Training:
    def accuracy(run: Run) -> float:
        model = load_model(run.checkpoints[-1].path, run.task.auto)
        return predict(model, run.tokenizer, run.task, test, show=show).accuracy

    names = tuple(checkpoint.name for checkpoint in variant.clean.checkpoints)
    noisy = None if variant.noisy is None else accuracy(variant.noisy)
    return Training(variant.embeddings, names, accuracy(variant.clean), noisy, retrains)


def _forecast(candidates: Sequence[Candidate], rows: int, queries: int, settings: StudySettings) -> str:
    each = {
        "lds": settings.subsets * settings.seeds,
        "filtering": settings.filter_seeds * 3 * (len(candidates) + len(settings.methods) + 2),
        "deletion": deletion_cost(candidates, rows, queries, settings),
    }
    each = {name: count for name, count in each.items() if name in settings.protocols}
    ways = 2 if settings.embeddings == "both" else 1
    most = ways * sum(each.values())
    capped = most if settings.retrains is None else min(most, settings.retrains)
    told = ", ".join(f"{name} {count:,}" for name, count in each.items())
    return f"At most {capped:,} retrainings: {ways} way{'s' if ways > 1 else ''} of training, each {told or 'none'}."
