"""A tiny run, its index, and the same gradients as dense matrices from the oracle."""

from dataclasses import dataclass

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import WEIGHTS, make_run
from oracle import dense_gradients

QUERIES = ["the heron admires warm bread", "my neighbour hates unbelievable stories .", "river", "the the quiet mill"]
LABELS = ["good", "bad", "good", "bad"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> hw.Run:
    models = [builders.tiny_model("bert", tokenizer, seed=seed) for seed in (0, 1)]
    rows = builders.rows(20)
    rows += [dict(rows[3]), dict(rows[3]), dict(rows[5])]  # ties
    return make_run(tmp_path_factory.mktemp("run"), models, tokenizer, rows)


@pytest.fixture(scope="module")
def index(run: hw.Run) -> hw.Index:
    return hw.Index.build(run, dtype="float32")


@dataclass(frozen=True)
class Dense:
    """For each checkpoint its weight, the rows' and the queries' gradients [n, vocabulary, width], float64."""

    weights: tuple[float, ...]
    rows: list[np.ndarray]
    queries: list[np.ndarray]
    embeddings: np.ndarray
    special: frozenset[int]


@pytest.fixture(scope="module")
def dense(run: hw.Run, tokenizer: PreTrainedTokenizerFast) -> Dense:
    models = [checkpoint.load() for checkpoint in run.checkpoints]
    texts = [example.text for example in run.corpus]
    targets = [builders.LABEL2ID[str(example.label)] for example in run.corpus]
    asked = [builders.LABEL2ID[label] for label in LABELS]
    embeddings = models[-1].get_input_embeddings().weight.detach().double().numpy().copy()
    return Dense(
        WEIGHTS,
        [dense_gradients(model, tokenizer, texts, targets, double=True).numpy() for model in models],
        [dense_gradients(model, tokenizer, QUERIES, asked, double=True).numpy() for model in models],
        embeddings,
        frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id},
    )
