"""Tail-patch: the change that one step makes is that of the optimizer's formula done by hand, and nothing stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

import builders
import headwater as hw
from headwater.errors import DataError, RunError, UsageError
from headwater.evaluation.metrics.tail_patch import tail_patch
from headwater.training import TrainSettings, train
from headwater.training.step import OneStep
from language.texts import PAIR_COLUMNS, lm_tokenizer, pair_rows, tiny_lm

RATE = 3e-3


def trained(folder: Path, kind: str = "bert", **changes: Any) -> hw.Run:
    """24 rows in batches of 8, 2 epochs, no warm-up: 6 steps, the last at a sixth of the rate."""
    builders.tiny_model(kind).save_pretrained(folder / "start")
    builders.wordpiece_tokenizer().save_pretrained(folder / "start")
    settings: dict[str, Any] = {"epochs": 2, "learning_rate": RATE, "batch_size": 8, "warmup": 0.0, "device": "cpu"}
    corpus = hw.Corpus.read(builders.rows(24))
    made = TrainSettings(model=str(folder / "start"), **(settings | changes))
    return train(corpus, hw.Classification(max_length=32), folder / "run", made)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hw.Run:
    return trained(tmp_path_factory.mktemp("adamw"), weight_decay=0.1)


@pytest.fixture(scope="module")
def queries() -> hw.Corpus:
    return hw.Corpus.read(builders.rows(4, seed=9))


def logs(model: Any, run: hw.Run, text: str, label: str) -> torch.Tensor:
    encoded = run.tokenizer(text, return_tensors="pt", truncation=True, max_length=32)
    return log_softmax(model(**encoded).logits.double(), dim=-1)[0, builders.LABEL2ID[label]]


Update = Callable[[torch.Tensor, torch.Tensor, dict[str, Any], dict[str, Any], float], torch.Tensor]


def adamw(weight: torch.Tensor, slope: torch.Tensor, state: dict[str, Any], group: dict[str, Any], rate: float) -> Any:
    one, two = group["betas"]
    step = float(state["step"]) + 1 if state else 1.0
    first = one * (state["exp_avg"] if state else 0) + (1 - one) * slope
    second = two * (state["exp_avg_sq"] if state else 0) + (1 - two) * slope**2
    way = (first / (1 - one**step)) / ((second / (1 - two**step)).sqrt() + group["eps"])
    return weight * (1 - rate * group["weight_decay"]) - rate * way


def sgd(weight: torch.Tensor, slope: torch.Tensor, state: dict[str, Any], group: dict[str, Any], rate: float) -> Any:
    return weight - rate * (group["momentum"] * state["momentum_buffer"] + slope)


def stepped(run: hw.Run, row: int, update: Update, rate: float, *, fresh: bool = False) -> Any:
    """The last checkpoint after one step on `row`, by hand: gradient, clipping to length 1, the optimizer's formula."""
    model = run.checkpoints[-1].load()
    example = run.corpus[row]
    encoded = run.tokenizer(example.text, return_tensors="pt", truncation=True, max_length=32)
    loss = cross_entropy(model(**encoded).logits, torch.tensor([builders.LABEL2ID[str(example.label)]]))
    named = dict(model.named_parameters())
    slopes = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    length = torch.sqrt(sum((slope.double() ** 2).sum() for slope in slopes.values()))  # type: ignore[arg-type]
    saved = torch.load(run.checkpoints[-1].path / "optimizer.pt", weights_only=True)
    groups = json.loads((run.folder / "headwater" / "rates.json").read_text())["groups"]
    with torch.no_grad():
        for names, group in zip(groups, saved["param_groups"], strict=True):
            for name, number in zip(names["parameters"], group["params"], strict=True):
                slope = slopes[name] / max(1.0, float(length) + 1e-6)
                state = {} if fresh else saved["state"][number]
                named[name].copy_(update(named[name], slope, state, group, rate))
    return model


def by_hand(run: hw.Run, queries: hw.Corpus, rows: np.ndarray, update: Update, rate: float, **how: Any) -> np.ndarray:
    before = run.checkpoints[-1].load()
    changes = np.empty((2, *rows.shape))
    with torch.no_grad():
        for query, place in np.ndindex(*rows.shape):
            with torch.enable_grad():
                after = stepped(run, int(rows[query, place]), update, rate, **how)
            ask = (run, queries[query].text, str(queries[query].label))
            one, other = logs(after, *ask), logs(before, *ask)
            changes[:, query, place] = float(one.exp() - other.exp()), float(one - other)
    return changes


def test_the_change_is_that_of_one_adamw_step_that_goes_on_from_the_saved_state(
    run: hw.Run, queries: hw.Corpus
) -> None:
    scores = np.random.default_rng(0).normal(size=(4, 24))
    found = tail_patch(run, queries, scores, k=2)
    assert found.resumed
    assert found.rates == pytest.approx((RATE / 6, RATE / 6))  # a linear schedule's last rate above 0
    np.testing.assert_array_equal(found.rows, np.argsort(-scores, axis=1)[:, :2])
    wanted = by_hand(run, queries, found.rows, adamw, RATE / 6)
    assert np.abs(wanted[0]).max() > 1e-3
    np.testing.assert_allclose(found.probability, wanted[0], atol=2e-6)
    np.testing.assert_allclose(found.log_probability, wanted[1], atol=5e-6)
    np.testing.assert_allclose(found.mean(1), found.probability[:, 0])
    np.testing.assert_allclose(found.mean(), found.probability.mean(axis=1))


def test_sgd_goes_on_with_its_momentum(queries: hw.Corpus, tmp_path: Path) -> None:
    run = trained(tmp_path, optimizer="sgd", schedule="constant", learning_rate=0.05)
    found = tail_patch(run, queries, np.random.default_rng(1).normal(size=(4, 24)), k=1)
    assert found.rates == pytest.approx((0.05, 0.05))
    np.testing.assert_allclose(found.probability, by_hand(run, queries, found.rows, sgd, 0.05)[0], atol=2e-6)


def test_without_a_saved_state_the_optimizer_begins_anew_and_says_so(
    run: hw.Run, queries: hw.Corpus, tmp_path: Path
) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    moved = hw.Run.open(tmp_path / "run")
    (moved.checkpoints[-1].path / "optimizer.pt").unlink()
    found = tail_patch(moved, queries, np.random.default_rng(2).normal(size=(4, 24)), k=1, learning_rate=1e-3)
    assert not found.resumed
    assert found.rates == (1e-3, 1e-3)
    wanted = by_hand(run, queries, found.rows, adamw, 1e-3, fresh=True)
    np.testing.assert_allclose(found.probability, wanted[0], atol=2e-5)
    (moved.checkpoints[-1].path / "optimizer.pt").write_bytes(b"no tensors")
    with pytest.raises(RunError, match=r"optimizer\.pt: does not fit"):
        OneStep(moved)


def test_rows_that_say_the_same_raise_the_target_and_contradictions_lower_it(run: hw.Run) -> None:
    rows = run.corpus.rows(0, 6)
    queries = hw.Corpus.read([{"text": row.text, "label": row.label} for row in rows])
    other = {"good": "bad", "bad": "good"}
    against = hw.Corpus.read([{"text": row.text, "label": other[str(row.label)]} for row in rows])
    scores = np.eye(6, 24)
    assert (tail_patch(run, queries, scores, k=1, learning_rate=1e-2).probability > 0).all()
    assert (tail_patch(run, against, scores, k=1, learning_rate=1e-2).probability < 0).all()


def test_nothing_stays_on_the_model_or_on_disk_even_after_an_error(run: hw.Run) -> None:
    files = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    one_step = OneStep(run)
    before = {name: value.clone() for name, value in one_step.model.state_dict().items()}
    seen = []
    for row in (3, 5, 3):
        with one_step.on(run.corpus[row]) as model:
            seen.append({name: value.clone() for name, value in model.state_dict().items()})
    with pytest.raises(ZeroDivisionError), one_step.on(run.corpus[4]):
        raise ZeroDivisionError
    for name, value in one_step.model.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(seen[0][name], seen[2][name])  # the optimizer's state went back too
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in before)
    assert all(parameter.grad is None for parameter in one_step.model.parameters())
    assert not one_step.model.training
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == files


def test_of_a_language_model_it_is_the_probability_of_the_whole_target(tmp_path: Path) -> None:
    tiny_lm("llama").save_pretrained(tmp_path / "llama")
    lm_tokenizer().save_pretrained(tmp_path / "llama")
    settings = TrainSettings(
        model=str(tmp_path / "llama"), epochs=6, learning_rate=1e-2, batch_size=4, max_length=32, device="cpu"
    )
    corpus = hw.Corpus.read(pair_rows(), PAIR_COLUMNS)
    run = train(corpus, hw.CausalLM(end=False), tmp_path / "run", settings)
    queries = corpus.take([2, 7])
    found = tail_patch(run, queries, np.eye(20)[[2, 7]], k=1, learning_rate=1e-3)
    assert (found.probability > 0).all()
    one_step = OneStep(run, learning_rate=1e-3)

    def log_probabilities(model: Any, row: hw.Example) -> tuple[float, int]:
        prompt, whole = (len(run.tokenizer(t).input_ids) for t in (row.text, row.text + str(row.label)))
        ids = torch.tensor([run.tokenizer(row.text + str(row.label)).input_ids])
        with torch.no_grad():
            said = log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
        return float(sum(said[t - 1, ids[0, t]] for t in range(prompt, whole))), whole - prompt

    for place, row in enumerate(queries):
        before, tokens = log_probabilities(one_step.model, row)
        with one_step.on(run.corpus[(2, 7)[place]]) as model:
            after, _ = log_probabilities(model, row)
        assert found.probability[place, 0] == pytest.approx(np.exp(after) - np.exp(before), rel=1e-3)
        assert found.log_probability[place, 0] == pytest.approx((after - before) / tokens, rel=1e-3)


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_of_an_adapter_the_adapter_alone_is_stepped(queries: hw.Corpus, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    run = trained(tmp_path, lora=True, lora_targets=("query", "value"))
    one_step = OneStep(run)
    before = {name: value.clone() for name, value in one_step.model.state_dict().items()}
    with one_step.on(run.corpus[0]) as model:
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("lora_" in name for name in moved)
    assert all("lora_" in name or "classifier" in name for name in moved)
    assert (tail_patch(run, queries, np.eye(4, 24), k=1).probability != 0).all()


def test_what_cannot_be_stepped_is_refused(run: hw.Run, queries: hw.Corpus, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="scores are of 23 rows, but the run has 24"):
        tail_patch(run, queries, np.zeros((4, 23)))
    with pytest.raises(UsageError, match="queries 4, scores 3"):
        tail_patch(run, queries, np.zeros((3, 24)))
    with pytest.raises(DataError, match="label 'odd'"):
        tail_patch(run, hw.Corpus.read([{"text": "warm bread", "label": "odd"}]), np.zeros((1, 24)))
    with pytest.raises(UsageError, match="learning_rate must be above 0"):
        tail_patch(run, queries, np.zeros((4, 24)), learning_rate=0.0)
    last = run.checkpoints[-1].path
    made = hw.Run.create(tmp_path / "made", checkpoints=[(last, 1.0)], corpus=run.corpus, task=run.task)
    with pytest.raises(RunError, match="cannot be trained again"):
        tail_patch(made, queries, np.zeros((4, 24)))
