"""Weights of rows: a weight multiplies a row's loss in training and its gradient in an index; 0 is the row left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import builders
from headwater.attribution.index import Index
from headwater.errors import DataError
from headwater.runs import CausalLM, Classification, Columns, Corpus, Run
from headwater.training import TrainSettings, predict, retrain, train
from language.texts import PAIR_COLUMNS, lm_tokenizer, pair_rows, tiny_lm

WEIGHTED = Columns(weight="weight")
SETTINGS = TrainSettings(
    model="textcnn", epochs=2, learning_rate=3e-3, batch_size=8, max_length=16, checkpoints=1, device="cpu"
)


def weighted(weights: list[float], rows: list[dict[str, Any]] | None = None) -> Corpus:
    made = [row | {"weight": weight} for row, weight in zip(rows or builders.rows(24), weights, strict=True)]
    return Corpus.read(made, WEIGHTED)


def state(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(Corpus.read(builders.rows(24)), Classification(), tmp_path_factory.mktemp("run") / "r", SETTINGS)


def test_weight_0_is_the_row_left_out_to_the_last_bit(run: Run) -> None:
    gone = [3, 4, 17]
    weights = [0.0 if row in gone else 1.0 for row in range(24)]
    one = state(retrain(run, corpus=weighted(weights)))
    other = state(retrain(run, corpus=run.corpus.without(gone)))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_weights_of_1_change_no_bit_and_others_do(run: Run) -> None:
    plain = state(retrain(run))
    same = state(retrain(run, corpus=weighted([1.0] * 24)))
    other = state(retrain(run, corpus=weighted([2.0] + [1.0] * 23)))
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    assert any(not torch.equal(plain[name], other[name]) for name in plain)


def test_one_step_is_the_step_of_the_weighted_mean(tmp_path: Path) -> None:
    """SGD, one batch of all rows: the step is rate * sum(w * gradient) / rows, by autograd alone."""
    weights = [0.5, 3.0, 1.0, 2.0]
    corpus = weighted(weights, builders.rows(4))
    model, tokenizer = builders.tiny_model(), builders.wordpiece_tokenizer()
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    settings = TrainSettings(
        model=str(tmp_path / "m"), epochs=1, learning_rate=0.1, batch_size=4, max_length=16, optimizer="sgd",
        schedule="constant", weight_decay=0.0, checkpoints=1, device="cpu",
    )  # fmt: skip
    run = train(corpus, Classification(), tmp_path / "r", settings)
    before = run.need_recipe().initial
    begun = type(model).from_pretrained(before).eval()
    total = torch.zeros(())
    for row, weight in zip(builders.rows(4), weights, strict=True):
        inputs = tokenizer(row["text"], return_tensors="pt")
        logits = begun(**inputs).logits.float()
        target = torch.tensor([builders.LABEL2ID[row["label"]]])
        total = total + weight * torch.nn.functional.cross_entropy(logits, target) / 4
    total.backward()
    gradients = torch.cat([p.grad.flatten() for p in begun.parameters() if p.grad is not None])
    clipped = 0.1 * gradients * min(1.0, 1.0 / float(gradients.norm()))
    after = dict(run.checkpoints[-1].load().named_parameters())
    moved = torch.cat([(p - after[n]).detach().flatten() for n, p in begun.named_parameters() if p.grad is not None])
    assert torch.allclose(moved, clipped, atol=1e-6)


def test_an_index_weighs_the_gradients(run: Run, tmp_path: Path) -> None:
    weights = [float(row % 4) for row in range(24)]
    made = train(weighted(weights), Classification(), tmp_path / "r", SETTINGS)
    points = [(run.checkpoints[-1].path, 1.0)]
    other = Run.create(tmp_path / "same", checkpoints=points, corpus=made.corpus, task=run.task)
    same = Run.create(tmp_path / "bare", checkpoints=points, corpus=run.corpus, task=run.task)
    text, label = builders.rows(30)[29]["text"], "good"
    scores = [
        np.asarray(Index.build(each, tmp_path / each.name / "index", show=False).scores([text], labels=[label]))
        for each in (same, other)
    ]
    assert scores[1] == pytest.approx(scores[0] * np.array(weights), rel=2e-3, abs=1e-5)
    assert not scores[1][:, ::4].any() and scores[0][:, ::4].any()


def test_weights_are_part_of_what_a_row_is_and_of_its_file(tmp_path: Path) -> None:
    two = builders.rows(2)
    plain, ones, twice = Corpus.read(two), weighted([1, 1], two), weighted([1, 2.5], two)
    assert plain.hashes == ones.hashes and plain.fingerprint == ones.fingerprint
    assert twice.hashes[0] == plain.hashes[0] and twice.hashes[1] != plain.hashes[1]
    twice.save(tmp_path / "c.parquet")
    again = Corpus.read(tmp_path / "c.parquet")
    assert again.weights == [1.0, 2.5] and again.take([1]).weights == [2.5] and again.hashes == twice.hashes
    assert plain.weights is None and plain.taught() is plain


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_a_number_that_is_no_weight_is_named(wrong: float) -> None:
    with pytest.raises(DataError, match=r"row 2, column 'weight': .* is no weight"):
        weighted([1.0, wrong], builders.rows(2))
    with pytest.raises(DataError, match="must be a number"):
        Corpus.read([{"text": "a", "label": "b", "weight": "1"}], WEIGHTED)
    with pytest.raises(DataError, match="every row has weight 0"):
        weighted([0, 0], builders.rows(2)).taught()


def test_a_run_with_weights_predicts_and_trains_again(tmp_path: Path) -> None:
    made = train(weighted([0.0] + [0.5] * 23), Classification(), tmp_path / "r", SETTINGS)
    assert made.corpus.weights == [0.0] + [0.5] * 23
    last, again = state(made.checkpoints[-1].load()), state(retrain(made))
    assert all(torch.equal(last[name], again[name]) for name in last)
    assert len(predict(made.checkpoints[-1].load(), made.tokenizer, made.task, made.corpus)) == 24


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_language_models_have_weights_too(reduction: Any, tmp_path: Path) -> None:
    tiny_lm("gpt2").save_pretrained(tmp_path / "m")
    lm_tokenizer().save_pretrained(tmp_path / "m")
    plain = Corpus.read(pair_rows(), PAIR_COLUMNS)
    settings = TrainSettings(model=str(tmp_path / "m"), epochs=1, learning_rate=1e-2, batch_size=4, max_length=32)
    run = train(plain, CausalLM(reduction=reduction), tmp_path / "r", settings)

    def trained(weights: list[float]) -> dict[str, torch.Tensor]:
        columns = replace(PAIR_COLUMNS, weight="weight")
        rows = [row | {"weight": weight} for row, weight in zip(pair_rows(), weights, strict=True)]
        return state(retrain(run, corpus=Corpus.read(rows, columns)))

    count = len(plain)
    last = state(run.checkpoints[-1].load())
    ones, silenced = trained([1.0] * count), trained([0.0] + [1.0] * (count - 1))
    assert all(torch.equal(ones[name], last[name]) for name in last)
    without = state(retrain(run, corpus=plain.without([0])))
    assert all(torch.equal(silenced[name], without[name]) for name in last)
    other = trained([3.0] + [1.0] * (count - 1))
    assert any(not torch.equal(other[name], last[name]) for name in last)
