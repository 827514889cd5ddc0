"""A tiny encoder on disk, a corpus, and one finished run of it that the tests only read."""

from pathlib import Path

import pytest

import builders
from headwater.runs import Classification, Corpus, Run
from headwater.training import TrainSettings, train


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return Corpus.read(builders.rows(60), name="sentences")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained encoder as a user has one: a folder with weights and a tokenizer; dropout is on."""
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = builders.wordpiece_tokenizer()
    builders.tiny_model("bert", tokenizer, hidden_dropout_prob=0.1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def settings(encoder: Path) -> TrainSettings:
    return TrainSettings(model=str(encoder), epochs=2, learning_rate=3e-3, batch_size=8, seed=5, device="cpu")


@pytest.fixture(scope="session")
def run(corpus: Corpus, settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run") / "r"
    return train(corpus, Classification(max_length=32), folder, settings, eval_corpus=corpus.take(range(10)))
