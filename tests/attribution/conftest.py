"""A tiny run of two checkpoints with different weights, and its index, shared by the tests of answers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import builders
import headwater as hw

WEIGHTS = (1e-2, 5e-3)


def make_run(
    folder: Path,
    models: list[PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    rows: list[dict[str, str]],
    *,
    weights: tuple[float, ...] = WEIGHTS,
    columns: hw.Columns | None = None,
    task: hw.Classification | None = None,
) -> hw.Run:
    """Save models as checkpoints and make a run of them."""
    checkpoints = []
    for number, (model, weight) in enumerate(zip(models, weights, strict=True)):
        path = folder / f"checkpoint-{number + 1}"
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        checkpoints.append((path, weight))
    corpus = hw.Corpus.read(rows, columns or hw.Columns())
    return hw.Run.create(folder, checkpoints=checkpoints, corpus=corpus, task=task or hw.Classification(max_length=32))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> hw.Run:
    models = [builders.tiny_model("bert", tokenizer, seed=seed) for seed in (0, 1)]
    return make_run(tmp_path_factory.mktemp("run"), models, tokenizer, builders.rows(24))


@pytest.fixture(scope="session")
def index(run: hw.Run) -> hw.Index:
    return hw.Index.build(run, dtype="float32")


@pytest.fixture
def fresh_run(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., hw.Run]:
    """Make a run of its own in this test's folder."""

    def make(rows: list[dict[str, str]] | None = None, **options: object) -> hw.Run:
        models = [builders.tiny_model("bert", tokenizer, seed=seed) for seed in (0, 1)]
        return make_run(tmp_path / "run", models, tokenizer, rows or builders.rows(24), **options)  # type: ignore[arg-type]

    return make
