"""`evaluate` on language models: completions are graded as labels are, by what retraining by hand says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

import headwater as hw
from headwater.errors import UsageError
from headwater.evaluation.bank import RetrainBank
from headwater.runs import Corpus, Run
from headwater.training import TrainSettings, evaluate, retrain, train
from language.texts import PAIR_COLUMNS, PAIRS, bert_tokenizer, lm_tokenizer, pair_rows, tiny_lm

ROWS = len(PAIRS)
METRICS = ["lds", "deletion", "qld", "tail-patch", "hubness"]
COLUMNS = [
    "lds",
    "del+ log-probability",
    "del- log-probability",
    "qld",
    "tail-patch",
    "tail-patch log",
    "distinct rows",
]
SETTINGS: dict[str, Any] = {"subsets": 3, "seeds": 1, "grid": (2,), "share": 0.1, "draws": 1, "k": 2, "processes": 1}
KINDS = [("gpt2", hw.CausalLM(max_length=32)), ("t5", hw.Seq2Seq(max_length=32))]


@pytest.fixture(scope="module", params=KINDS, ids=[kind for kind, _ in KINDS])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    kind, task = request.param
    folder = tmp_path_factory.mktemp(kind)
    tiny_lm(kind).save_pretrained(folder / "base")
    (bert_tokenizer() if kind == "t5" else lm_tokenizer()).save_pretrained(folder / "base")
    settings = TrainSettings(
        model=str(folder / "base"), epochs=1, batch_size=5, learning_rate=1e-2, checkpoints=1, device="cpu"
    )
    return train(Corpus.read(pair_rows(), PAIR_COLUMNS), task, folder / "run", settings)


@pytest.fixture(scope="module")
def queries() -> Corpus:
    return Corpus.read(pair_rows([PAIRS[3], PAIRS[9]]), PAIR_COLUMNS, name="asked")


def test_every_metric_grades_completions_and_scipy_and_hand_made_retrainings_agree(
    run: Run, queries: Corpus, tmp_path: Path
) -> None:
    made = hw.evaluate(run, ["tracin-we"], METRICS, queries, out=tmp_path, **SETTINGS)
    assert made.methods == ["tracin-we", "bm25", "random"]
    for column in COLUMNS:
        for method in made.methods:
            assert np.isfinite(made.cell(column, method).value), (column, method, made.cell(column, method).notes)
    scores = np.load(tmp_path / "scores" / "tracin-we.npy").astype(np.float64)
    bank = RetrainBank.open(tmp_path / "bank" / "half-0")
    wanted = [
        spearmanr(bank.masks @ scores[query], -bank.losses[:, :, query].astype(np.float64).mean(axis=1)).statistic
        for query in range(2)
    ]
    assert made.cell("lds", "tracin-we").value == pytest.approx(np.mean(wanted))

    def losses(gone: list[int], query: int) -> float:
        kept = sorted(set(range(ROWS)) - set(gone))
        return float(evaluate(retrain(run, rows=kept, seed=0), run.tokenizer, run.task, queries).sums[query])

    tops = [np.argsort(-scores[query], kind="stable")[:2].tolist() for query in range(2)]
    fallen = [losses([], query) - losses(tops[query], query) for query in range(2)]
    assert made.cell("del+ log-probability", "tracin-we").value == pytest.approx(np.mean(fallen), abs=1e-4)


def test_the_row_that_says_the_same_teaches_it(run: Run, queries: Corpus, tmp_path: Path) -> None:
    twins = np.zeros((2, ROWS))
    twins[[0, 1], [3, 9]] = 1.0
    settings = SETTINGS | {"k": 1, "baselines": False}
    made = hw.evaluate(run, [], ["tail-patch"], queries, out=tmp_path, scores={"twins": twins}, **settings)
    column = made._column("tail-patch log")
    assert all(value is not None and value > 0 for value in column.values["twins"])


def test_what_needs_classes_is_refused_before_any_work(run: Run, queries: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="influence-last needs classes"):
        hw.evaluate(run, ["influence-last"], ["lds"], queries, out=tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()
