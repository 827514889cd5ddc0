"""The bank on other tasks and recipes: language models, encoders that only Trainer can repeat; and what margins are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import builders
from headwater.errors import DataError, UsageError
from headwater.evaluation.bank import RetrainBank, remove
from headwater.evaluation.bank.outputs import Outputs, read_outputs, to_bytes, write_outputs
from headwater.runs import CausalLM, Classification, Corpus, Recipe
from headwater.training import TrainSettings, evaluate, predict, retrain, train
from language.texts import PAIR_COLUMNS, PAIRS, lm_tokenizer, pair_rows, tiny_lm


def test_losses_probabilities_and_margins_are_worked_out_without_losing_digits() -> None:
    logits = np.array([[2.0, -1.0, 0.5], [60.0, 0.0, 0.0], [0.0, 60.0, -5.0], [1.0, 1.0, 1.0]], dtype=np.float32)
    found = Outputs.of_logits(logits, np.array([0, 0, 0, 2]))
    shares = np.exp(logits.astype(np.float64))
    p = shares[range(4), [0, 0, 0, 2]] / shares.sum(axis=1)
    np.testing.assert_allclose(found.losses, [-np.log(p[0]), 2 * np.exp(-60), 60, np.log(3)], rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(found.probabilities, p, rtol=1e-6)
    np.testing.assert_allclose(found.margins[[0, 3]], np.log(p[[0, 3]] / (1 - p[[0, 3]])), rtol=1e-6)
    np.testing.assert_allclose(found.margins[1:3], [60 - np.log(2), -60 - np.log1p(np.exp(-65.0))], rtol=1e-6)
    assert found.logits is not None and found.correct is not None
    np.testing.assert_array_equal(found.logits, [2.0, 60.0, 0.0, 1.0])
    np.testing.assert_array_equal(found.correct, [True, True, False, False])  # a tie is the lower number's


def test_of_a_text_the_probability_is_that_of_all_its_tokens() -> None:
    found = Outputs.of_sums(np.array([0.7, 1e-6, 80.0], dtype=np.float32))
    p = np.exp(-0.7)
    np.testing.assert_allclose(found.margins, [np.log(p / (1 - p)), -np.log(1e-6), -80.0], rtol=1e-5)
    np.testing.assert_allclose(found.probabilities, [p, 1.0, np.exp(-80.0)], rtol=1e-5)
    assert found.logits is None and found.correct is None


def test_a_file_holds_what_was_written_and_equal_content_has_equal_bytes(tmp_path: Path) -> None:
    made = Outputs.of_logits(np.random.default_rng(0).normal(size=(7, 3)), np.arange(7) % 3)
    facts = {"bank": "b", "subset": "s", "seed": 3}
    content = to_bytes(made, facts)
    assert content == to_bytes(replace(made), dict(reversed(list(facts.items()))))
    write_outputs(tmp_path / "folder" / "x.safetensors", content)
    read = read_outputs(tmp_path / "folder" / "x.safetensors", facts)
    for name, value in vars(made).items():
        np.testing.assert_array_equal(getattr(read, name), value)
        assert getattr(read, name).dtype == value.dtype


def test_a_language_model_is_asked_about_whole_texts(tmp_path: Path) -> None:
    tiny_lm("llama").save_pretrained(tmp_path / "base")
    lm_tokenizer().save_pretrained(tmp_path / "base")
    settings = TrainSettings(model=str(tmp_path / "base"), epochs=1, batch_size=4, learning_rate=1e-2, device="cpu")
    corpus = Corpus.read(pair_rows(), PAIR_COLUMNS)
    run = train(corpus, CausalLM(max_length=32), tmp_path / "r", settings)
    queries = Corpus.read(pair_rows(PAIRS[:3]), PAIR_COLUMNS)
    bank = RetrainBank.create(run, tmp_path / "b", queries, protocol=remove(), subsets=[(0, 5)], seeds=[2])
    bank.fill(processes=1)
    model = retrain(run, rows=np.flatnonzero(bank.masks[0]).tolist(), seed=2)
    found = bank.results()
    np.testing.assert_array_equal(found.losses[0, 0], evaluate(model, run.tokenizer, run.task, queries).sums)
    np.testing.assert_allclose(found.probabilities, np.exp(-found.losses), rtol=1e-5)
    with pytest.raises(UsageError, match="no logit"):
        _ = found.logits
    with pytest.raises(UsageError, match="neither right nor wrong"):
        _ = found.correct


def test_a_recipe_that_only_trainer_can_follow_is_followed_by_trainer(tmp_path: Path) -> None:
    tokenizer = builders.wordpiece_tokenizer()
    builders.tiny_model("bert", tokenizer, hidden_dropout_prob=0.1).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    settings = TrainSettings(model=str(tmp_path / "base"), epochs=1, batch_size=8, learning_rate=1e-2, device="cpu")
    run = train(Corpus.read(builders.rows(24)), Classification(max_length=32), tmp_path / "r", settings)
    recipe = run.need_recipe()
    arguments = recipe.arguments | {"gradient_accumulation_steps": 2}
    run = replace(run, recipe=Recipe(arguments, recipe.initial, recipe.max_length, recipe.seed))
    queries = Corpus.read(builders.rows(4, seed=9))
    bank = RetrainBank.create(run, tmp_path / "b", queries, subsets=1, seeds=[3])
    bank.fill(processes=1)
    model = retrain(run, rows=np.flatnonzero(bank.masks[0]).tolist(), seed=3)
    np.testing.assert_array_equal(bank.losses[0, 0], predict(model, run.tokenizer, run.task, queries).losses)
    with pytest.raises(UsageError, match="quick arithmetic is for TextCNN"):
        RetrainBank.create(run, tmp_path / "q", queries, arithmetic="quick")
    with pytest.raises(UsageError, match="only a TextCNN begins from random weights; this model is bert"):
        RetrainBank.create(run, tmp_path / "q", queries, first_weights="fresh")
    pairs = Corpus.read(builders.rows(3, pairs=True))
    RetrainBank.create(run, tmp_path / "p", pairs)  # a further column is no second text
    with pytest.raises(DataError, match="both have a second text"):
        columns = replace(pairs.columns, text_pair="pair")
        RetrainBank.create(run, tmp_path / "o", Corpus(pairs.table, columns, "pairs"))
