"""A tiny real run with flipped labels, evaluation rows, and its index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import builders
import headwater as hw
from headwater.training import TrainSettings, train

FLIPPED = (3, 17, 40, 58, 77, 91)


@dataclass(frozen=True)
class Made:
    """`run` was trained on rows of which `flipped` carry the wrong label; `clean` is the same without flips."""

    run: hw.Run
    index: hw.Index
    flipped: tuple[int, ...]


def settings(epochs: int = 4) -> TrainSettings:
    return TrainSettings(model="textcnn", epochs=epochs, max_length=16, vocabulary=300, learning_rate=2e-3)


def corpus_of(rows: list[dict[str, str]], name: str = "train.jsonl") -> hw.Corpus:
    return hw.Corpus.read(rows, name=name)


def flip(label: str) -> str:
    return "bad" if label == "good" else "good"


def make_run(folder: Path, flipped: tuple[int, ...], epochs: int = 12) -> hw.Run:
    rows = builders.rows(200)
    for row in flipped:
        rows[row]["label"] = flip(rows[row]["label"])
    train_rows, held_out = corpus_of(rows[:120]), corpus_of(rows[120:], "eval.jsonl")
    return train(
        train_rows, hw.Classification(max_length=16), folder, settings(epochs), eval_corpus=held_out, show=False
    )


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Made:
    run = make_run(tmp_path_factory.mktemp("noisy") / "run", FLIPPED)
    return Made(run, hw.Index.build(run, show=False), FLIPPED)


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Made:
    run = make_run(tmp_path_factory.mktemp("sound") / "run", ())
    return Made(run, hw.Index.build(run, show=False), ())
