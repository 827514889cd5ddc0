"""A loss of the user's own, as a function: explained as it was trained, and asked for again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import builders
import headwater as hw
from headwater.errors import ModelError, RunError
from headwater.training import TrainSettings, retrain, train
from language.texts import PAIR_COLUMNS, PAIRS, QUERIES, lm_tokenizer, pair_rows, run_of, tiny_lm
from oracle import relative_error


def squared(model: Any, batch: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    return cross_entropy(model(**batch).logits, targets, reduction="none") ** 2


def last_token(model: Any, batch: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Only the end of each text: targets are tokens, -100 where none is wanted."""
    logits = model(**batch).logits
    ends = (targets != -100).int().cumsum(1).argmax(1)
    rows = torch.arange(len(targets))
    return cross_entropy(logits[rows, ends - 1], targets[rows, ends], reduction="none")


def averaged(model: Any, batch: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    return squared(model, batch, targets).mean()


def test_a_classifier_s_custom_loss_enters_the_gradient(tmp_path: Path) -> None:
    tokenizer, model, rows = builders.wordpiece_tokenizer(), builders.tiny_model("bert"), builders.rows(6)
    task = hw.CustomLoss(hw.Classification(max_length=32), squared)
    run = run_of(tmp_path, [model], tokenizer, rows, task, hw.Columns())
    ours = hw.Index.build(run, dtype="float32").scores(["a fine film"], ["good"])
    model.requires_grad_(True)

    def gradient(text: str, label: str) -> Tensor:
        logits = model(**tokenizer(text, return_tensors="pt")).logits
        loss = (-torch.log_softmax(logits, -1)[0, builders.LABEL2ID[label]]) ** 2
        return torch.autograd.grad(loss, model.get_input_embeddings().weight)[0].flatten()

    asked = gradient("a fine film", "good")
    truth = 1e-2 * torch.stack([asked @ gradient(row["text"], row["label"]) for row in rows])
    assert relative_error(torch.from_numpy(ours[0]), truth) < 1e-5


def test_a_language_model_s_custom_loss_is_given_token_targets(tmp_path: Path) -> None:
    model, tokenizer = tiny_lm("gpt2"), lm_tokenizer()
    task = hw.CustomLoss(hw.CausalLM(max_length=32), last_token)
    run = run_of(tmp_path / "custom", [model], tokenizer, pair_rows(), task, PAIR_COLUMNS)
    ours = hw.Index.build(run, dtype="float32").scores(QUERIES)
    plain = hw.CausalLM(max_length=32, separator="", end=True)
    moved = [(p + c, "[SEP]") for p, c in (*QUERIES, *PAIRS)]  # the same loss by other means: only the end is asked
    task_two = hw.CausalLM(max_length=32, end=False)
    same = run_of(tmp_path / "same", [model], tokenizer, pair_rows(moved[3:]), task_two, PAIR_COLUMNS)
    theirs = hw.Index.build(same, dtype="float32").scores(moved[:3])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)
    assert plain != task_two
    (item,) = hw.Index.open(run.folder / "index", run=run).query(QUERIES[:1], k=2)
    assert item.query.loss < -20 * np.log(item.query.probability)


def test_files_hold_the_name_of_a_loss_and_ask_for_it(tmp_path: Path) -> None:
    model, tokenizer = builders.tiny_model("bert"), builders.wordpiece_tokenizer()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    corpus = hw.Corpus.read(builders.rows(16))
    task = hw.CustomLoss(hw.Classification(), squared)
    settings = TrainSettings(model=str(tmp_path / "base"), epochs=2, batch_size=8, learning_rate=1e-2, max_length=32)
    run = train(corpus, task, tmp_path / "run", settings)
    assert run.task.max_length == 32
    with pytest.raises(RunError, match=r"loss of its own, .*test_custom_loss:squared, .* Give it: Run\.open"):
        hw.Run.open(tmp_path / "run")
    with pytest.raises(RunError, match="recorded with"):
        hw.Run.open(tmp_path / "run", task=hw.CustomLoss(hw.Classification(), last_token))
    run = hw.Run.open(tmp_path / "run", task=task)
    again, last = retrain(run), run.checkpoints[-1].load()
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), last.parameters(), strict=True))
    assert len(hw.Index.build(run).query("a fine film", k=2)[0].proponents) == 2


def test_a_loss_that_mixes_examples_is_refused(tmp_path: Path) -> None:
    task = hw.CustomLoss(hw.Classification(max_length=32), averaged)
    run = run_of(
        tmp_path, [builders.tiny_model("bert")], builders.wordpiece_tokenizer(), builders.rows(6), task, hw.Columns()
    )
    with pytest.raises(ModelError, match=r"must give one number an example: \[6\], not \(\)"):
        hw.Index.build(run)
