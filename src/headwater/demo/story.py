"""The main job from end to end, on real messages: train, index, explain, suspect, remove, train again, compare.

Each chapter is data, told as soon as it is known; faces print it. Nothing here decides how the story ends.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headwater.attribution.attributions import Attributions
from headwater.attribution.index import Index
from headwater.audit.opponents import Ranking, opponents_of
from headwater.demo.sms import MAX_TOKENS, SmsData, load_sms
from headwater.errors import RunError
from headwater.files import write_json
from headwater.remedies.removal import RemovalTrial, removal_trial
from headwater.runs import Classification, Corpus, Run
from headwater.training import Predictions, TrainSettings, predict, train
from headwater.training.settings import has_bf16

MARK = "demo.json"  # says that a folder may be deleted by the next demo


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What `headwater demo` can be told."""

    seed: int = field(default=0, metadata={"help": "Seed of the split, of the flipped labels and of the training."})
    epochs: float = field(default=2.0, metadata={"help": "How often every row is seen."})
    removed: int = field(default=100, metadata={"help": "How many of the worst rows are removed."})
    questions: int = field(default=5, metadata={"help": "How many wrong predictions are explained."})
    rows: int = field(default=10, metadata={"help": "How many rows a side each explanation shows."})
    model: str = field(default="minilm", metadata={"help": "What is trained: see `headwater train --model`."})
    train_rows: int = field(default=2_000, metadata={"help": "Training rows."})
    validation_rows: int = field(default=500, metadata={"help": "Clean rows that the audit listens to."})
    test_rows: int = field(default=1_000, metadata={"help": "Clean rows on which models are compared."})


@dataclass(frozen=True)
class Prepared:
    """The data as the demo uses it."""

    data: SmsData
    seconds: float


@dataclass(frozen=True)
class Trained:
    """The run, and what its last checkpoint says of the test rows."""

    run: Run
    test: Predictions
    seconds: float


@dataclass(frozen=True)
class Indexed:
    """The index of the run's checkpoints."""

    index: Index
    seconds: float


@dataclass(frozen=True)
class Explained:
    """Wrong predictions, why they were made, and where the page about them is."""

    rows: tuple[int, ...]
    """Of the test corpus, drawn from its mistakes, the most confident first."""
    queries: Corpus
    """These rows, with their true labels."""
    answers: Attributions
    """Why the model said what it said (its label, not the true one)."""
    report: Path
    seconds: float


@dataclass(frozen=True)
class Suspected:
    """The training rows that speak most against clean validation rows, and how many of them were flipped."""

    ranking: Ranking
    worst: tuple[int, ...]
    found: int
    """Planted flips among `worst`."""
    planted: int
    expected: float
    """How many a random choice of as many rows would hold."""
    seconds: float


@dataclass(frozen=True)
class Proved:
    """What retraining says."""

    trial: RemovalTrial
    seconds: float


Chapter = Prepared | Trained | Indexed | Explained | Suspected | Proved
Tell = Callable[[Chapter], None]


@dataclass(frozen=True)
class Story:
    """All chapters."""

    folder: Path
    settings: DemoSettings
    prepared: Prepared
    trained: Trained
    indexed: Indexed
    explained: Explained
    suspected: Suspected
    proved: Proved

    @property
    def seconds(self) -> float:
        """Wall-clock time of all chapters."""
        chapters = (self.prepared, self.trained, self.indexed, self.explained, self.suspected, self.proved)
        return sum(chapter.seconds for chapter in chapters)

    def to_dict(self) -> dict[str, Any]:
        """Return what result.json holds."""
        data, suspected = self.prepared.data, self.suspected
        return {
            "seed": self.settings.seed,
            "rows": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
            "accuracy": self.trained.test.accuracy,
            "wrong": int((~self.trained.test.correct).sum()),
            "explained": self.explained.answers.to_dict(),
            "removed": list(suspected.worst),
            "planted": {"rows": suspected.planted, "found": suspected.found, "by_chance": suspected.expected},
            "trial": self.proved.trial.to_dict(),
            "seconds": {
                "prepare": self.prepared.seconds,
                "train": self.trained.seconds,
                "index": self.indexed.seconds,
                "explain": self.explained.seconds,
                "suspect": self.suspected.seconds,
                "retrain": self.proved.seconds,
                "all": self.seconds,
            },
        }


def run_demo(
    folder: str | Path = "demo-run",
    settings: DemoSettings | None = None,
    *,
    tell: Tell = lambda chapter: None,
    show: bool | None = None,
) -> Story:
    """Live through the story in `folder`: run/ (with its index), report.html, result.json, the test rows and the key.

    A folder that an earlier demo wrote is written anew. Raises RunError for any other folder that is not empty,
    DataError or ModelError where one of the demo's two wheels is missing.
    """
    settings = settings or DemoSettings()
    folder = Path(folder)
    begin(folder)
    prepared = prepare(settings)
    tell(prepared)
    trained = learn(prepared.data, folder, settings, show=show)
    tell(trained)
    indexed = index(trained.run, show=show)
    tell(indexed)
    explained = explain(indexed.index, prepared.data.test, trained.test, folder / "report.html", settings, show=show)
    tell(explained)
    suspected = suspect(indexed.index, prepared.data, settings, show=show)
    tell(suspected)
    proved = prove(trained.run, suspected, explained, prepared.data.test, show=show)
    tell(proved)
    story = Story(folder, settings, prepared, trained, indexed, explained, suspected, proved)
    write_json(folder / "result.json", story.to_dict())
    return story


def begin(folder: Path) -> None:
    """Clear what an earlier demo wrote away, and mark the folder as a demo's.

    Raises RunError for a folder that holds anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file. Choose another folder with --out.")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise RunError(f"{folder}: is not empty, and no demo wrote it. Choose another folder with --out.")
        shutil.rmtree(folder)
    write_json(folder / MARK, {"written_by": "headwater demo", "note": "The next demo here deletes this folder."})


def prepare(settings: DemoSettings) -> Prepared:
    """Read and split the messages, and flip labels."""
    started = time.monotonic()
    data = load_sms(
        train_rows=settings.train_rows,
        validation_rows=settings.validation_rows,
        test_rows=settings.test_rows,
        seed=settings.seed,
    )
    return Prepared(data, time.monotonic() - started)


def learn(data: SmsData, folder: Path, settings: DemoSettings, *, show: bool | None = None) -> Trained:
    """Fine-tune on the rows, wrong labels and all, and keep test rows and answer key beside the run."""
    started = time.monotonic()
    chosen = TrainSettings(model=settings.model, epochs=settings.epochs, seed=settings.seed, bf16=has_bf16())
    task = Classification(max_length=MAX_TOKENS)
    run = train(data.train, task, folder / "run", chosen, eval_corpus=data.validation, show=show)
    data.test.save(folder / "test.parquet")
    write_json(folder / "planted.json", {str(row): label for row, label in data.planted.was.items()})
    model = run.checkpoints[-1].load()
    test = predict(model, run.tokenizer, run.task, data.test, title="predicting test rows", show=show)
    return Trained(run, test, time.monotonic() - started)


def index(run: Run, *, show: bool | None = None) -> Indexed:
    """Index every checkpoint."""
    started = time.monotonic()
    return Indexed(Index.build(run, show=show), time.monotonic() - started)


def explain(
    index: Index,
    test: Corpus,
    predictions: Predictions,
    report: Path,
    settings: DemoSettings,
    *,
    show: bool | None = None,
) -> Explained:
    """Explain some wrong predictions, and write the page `report`.

    They are drawn at random, so that they stand for all mistakes and not for the strangest, and told by descending
    confidence. Where there are fewer mistakes than questions, the least sure predictions fill up.
    """
    started = time.monotonic()
    by_loss = np.argsort(-predictions.losses, kind="stable")
    mistakes = max(int((~predictions.correct).sum()), settings.questions)
    drawn = np.random.default_rng(settings.seed).permutation(mistakes)[: settings.questions]
    rows = tuple(int(row) for row in by_loss[np.sort(drawn)])
    queries = test.take(rows)
    said = [predictions.predicted[row] for row in rows]
    answers = index.query(queries, labels=said, k=settings.rows, show=show)
    answers.save_html(report)
    return Explained(rows, queries, answers, report, time.monotonic() - started)


def suspect(index: Index, data: SmsData, settings: DemoSettings, *, show: bool | None = None) -> Suspected:
    """Rank training rows by how they oppose the clean validation rows; the answer key only counts the finds."""
    started = time.monotonic()
    labels = [example.label for example in data.validation if example.label is not None]
    scores = index.scores(data.validation, labels, normalize="train", show=show)
    ranking = opponents_of(scores, labels)
    worst = tuple(int(row) for row in ranking.rows[: settings.removed])
    planted = data.planted.rows
    return Suspected(
        ranking=ranking,
        worst=worst,
        found=len(planted & set(worst)),
        planted=len(planted),
        expected=len(worst) * len(planted) / len(data.train),
        seconds=time.monotonic() - started,
    )


def prove(run: Run, suspected: Suspected, explained: Explained, test: Corpus, *, show: bool | None = None) -> Proved:
    """Retrain without the worst rows and without as many random ones."""
    started = time.monotonic()
    trial = removal_trial(run, suspected.worst, queries=explained.queries, test=test, show=show)
    return Proved(trial, time.monotonic() - started)
