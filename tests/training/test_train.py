"""Training: deterministic, recorded, and refusing what cannot be right before anything is written."""

from __future__ import annotations

import logging
import random
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

import builders
from headwater.errors import DataError, ModelError, RunError, UsageError
from headwater.models.textcnn import TextCNN
from headwater.runs import Classification, Columns, Corpus, Run
from headwater.training import TrainSettings, train
from headwater.training.settings import has_bf16


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(
    run: Run, corpus: Corpus, settings: TrainSettings, tmp_path: Path
) -> None:
    torch.manual_seed(999)  # the state of the process must not matter
    again = train(corpus, Classification(max_length=32), tmp_path / "again", settings)
    assert [c.name for c in again.checkpoints] == [c.name for c in run.checkpoints]
    for mine, theirs in zip(again.checkpoints, run.checkpoints, strict=True):
        assert same(weights(mine.path), weights(theirs.path))
    changed = TrainSettings(**{f.name: getattr(settings, f.name) for f in fields(settings)} | {"seed": 6})
    other = train(corpus, Classification(max_length=32), tmp_path / "other", changed)
    assert not same(weights(other.checkpoints[-1].path), weights(run.checkpoints[-1].path))


def test_training_leaves_the_process_randomness_alone(corpus: Corpus, settings: TrainSettings, tmp_path: Path) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    train(corpus.take(range(16)), Classification(max_length=32), tmp_path / "r", settings)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


def test_the_run_holds_what_was_asked_for(run: Run, corpus: Corpus) -> None:
    assert [c.step for c in run.checkpoints] == [8, 16]  # 60 rows in batches of 8: 8 steps an epoch
    assert run.corpus.fingerprint == corpus.fingerprint
    assert run.label2id == {"bad": 0, "good": 1}
    assert run.task.max_length == 32
    assert run.eval_corpus is not None and len(run.eval_corpus) == 10
    assert run.no_recipe == "" and run.need_recipe().seed == 5
    assert all((c.path / "optimizer.pt").is_file() for c in run.checkpoints)


def test_checkpoint_weights_are_the_sums_of_the_rates_between_them(run: Run) -> None:
    peak, warmup, total = 3e-3, 2, 16  # 10% of 16 steps, rounded up
    rates = [peak * (step / warmup if step < warmup else (total - step) / (total - warmup)) for step in range(total)]
    assert [c.weight for c in run.checkpoints] == pytest.approx([sum(rates[:8]), sum(rates[8:])])


@pytest.mark.parametrize(("count", "steps"), [(1, [16]), (3, [6, 12, 16]), (4, [4, 8, 12, 16])])
def test_checkpoints_are_evenly_spaced_and_the_last_is_the_end(
    corpus: Corpus, encoder: Path, tmp_path: Path, count: int, steps: list[int]
) -> None:
    settings = TrainSettings(model=str(encoder), epochs=2, batch_size=8, checkpoints=count, device="cpu")
    run = train(corpus, Classification(max_length=32), tmp_path / "r", settings)
    assert [c.step for c in run.checkpoints] == steps


def test_a_textcnn_learns_its_own_vocabulary_and_the_task(corpus: Corpus, tmp_path: Path) -> None:
    settings = TrainSettings(model="textcnn", epochs=25, batch_size=8, max_length=24, device="cpu")
    run = train(corpus, Classification(), tmp_path / "r", settings)
    model = run.checkpoints[-1].load()
    assert isinstance(model, TextCNN)
    assert model.config.max_length == run.task.max_length == 24
    assert model.config.vocab_size == len(run.tokenizer) < 200
    from headwater.training import predict

    assert predict(model, run.tokenizer, run.task, corpus).accuracy > 0.9


def test_pairs_train_too(encoder: Path, tmp_path: Path) -> None:
    pairs = Corpus.read(builders.rows(24, pairs=True), Columns(text_pair="pair"))
    settings = TrainSettings(model=str(encoder), epochs=1, batch_size=8, device="cpu")
    run = train(pairs, Classification(pairs=True), tmp_path / "r", settings)
    assert run.task.kind == "pairs"
    scratch = TrainSettings(model="textcnn", epochs=1, batch_size=8, max_length=40, device="cpu")
    assert train(pairs, Classification(pairs=True), tmp_path / "c", scratch).task.max_length == 40


def test_the_loss_trained_is_the_task_s_smoothed_and_weighted(corpus: Corpus, tmp_path: Path) -> None:
    """One step of plain SGD goes down the (clipped) gradient of the mean loss, computed here with torch alone."""
    tokenizer = builders.wordpiece_tokenizer()
    builders.tiny_model("bert", tokenizer).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    task = Classification(max_length=32, label_smoothing=0.2, class_weights={"bad": 3.0, "good": 0.5})
    settings = TrainSettings(
        model=str(tmp_path / "encoder"), epochs=1, batch_size=16, device="cpu",
        optimizer="sgd", momentum=0.0, learning_rate=0.1, schedule="constant",
    )  # fmt: skip
    run = train(corpus.take(range(16)), task, tmp_path / "r", settings)
    assert [c.step for c in run.checkpoints] == [1]

    model = AutoModelForSequenceClassification.from_pretrained(run.need_recipe().initial).eval()
    inputs = tokenizer([row.text for row in run.corpus], padding=True, return_tensors="pt")
    targets = torch.tensor([run.label2id[str(row.label)] for row in run.corpus])
    losses = torch.nn.functional.cross_entropy(
        model(**inputs).logits, targets, torch.tensor([3.0, 0.5]), reduction="none", label_smoothing=0.2
    )
    losses.mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    after = weights(run.checkpoints[0].path)
    for name, value in model.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(after[name], (value - 0.1 * value.grad).detach(), rtol=1e-4, atol=1e-5)


def test_a_model_without_a_padding_token_pads_with_its_end_token(corpus: Corpus, tmp_path: Path) -> None:
    tokenizer = builders.plain_tokenizer()
    tokenizer.pad_token = None
    tokenizer.eos_token = "[SEP]"
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    settings = TrainSettings(model=str(tmp_path / "gpt2"), epochs=1, batch_size=8, device="cpu")
    run = train(corpus.take(range(16)), Classification(max_length=32), tmp_path / "r", settings)
    assert run.tokenizer.pad_token == "[SEP]"
    assert run.checkpoints[-1].config.pad_token_id == run.tokenizer.pad_token_id


def test_label_order_is_told_and_whole_numbers_keep_theirs(
    encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": builders.SENTENCES[i], "label": [10, 9, 2][i % 3]} for i in range(12)]
    settings = TrainSettings(model=str(encoder), epochs=1, device="cpu")  # one step: no warm-up, or nothing would move
    with caplog.at_level(logging.INFO, "headwater.training"):
        run = train(Corpus.read(rows), Classification(max_length=32), tmp_path / "r", settings)
    assert run.label2id == {"2": 0, "9": 1, "10": 2}
    assert "0 = 2, 1 = 9, 2 = 10" in caplog.text
    assert run.targets == [2, 1, 0] * 4


def test_a_label_order_may_be_asked_for(corpus: Corpus, encoder: Path, tmp_path: Path) -> None:
    settings = TrainSettings(model=str(encoder), epochs=1, labels=("good", "neutral", "bad"), device="cpu")
    run = train(corpus.take(range(8)), Classification(max_length=32), tmp_path / "r", settings)
    assert run.label2id == {"good": 0, "neutral": 1, "bad": 2}
    wrong = TrainSettings(model=str(encoder), labels=("good", "fine"), device="cpu")
    with pytest.raises(DataError, match=r"'bad' is not among the labels asked for \(good, fine\)"):
        train(corpus, Classification(max_length=32), tmp_path / "w", wrong)
    assert not (tmp_path / "w").exists()


def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    corpus: Corpus, settings: TrainSettings, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    one = corpus.take([row.row for row in corpus if row.label == "good"])
    with pytest.raises(DataError, match="every row is labelled 'good'"):
        train(one, Classification(max_length=32), out, settings)
    unlabelled = Corpus.read([{"text": "the heron"}], Columns(label=None))
    with pytest.raises(DataError, match="has no labels"):
        train(unlabelled, Classification(max_length=32), out, settings)
    with pytest.raises(ModelError, match="no such folder"):
        train(corpus, Classification(), out, TrainSettings(model="nowhere"))
    with pytest.raises(ModelError, match="at most 64"):
        train(corpus, Classification(max_length=100), out, settings)
    with pytest.raises(ModelError, match="too short"):
        train(corpus, Classification(), out, TrainSettings(model="textcnn", max_length=8))
    strange = Corpus.read([{"text": "the heron", "label": "odd"}])
    with pytest.raises(DataError, match="'odd'"):
        train(corpus, Classification(max_length=32), out, settings, eval_corpus=strange)
    assert not out.exists()


def test_a_folder_that_is_not_empty_is_left_alone(corpus: Corpus, settings: TrainSettings, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        train(corpus, Classification(max_length=32), tmp_path, settings)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be above 0"),
        ({"epochs": float("nan")}, "epochs must be above 0"),
        ({"batch_size": -1}, "batch_size must be above 0"),
        ({"warmup": 1.0}, "warmup is a share"),
        ({"seed": -1}, "seed must be"),
        ({"schedule": "zigzag"}, "schedule 'zigzag' is not one of linear"),
        ({"device": "tpu"}, "device 'tpu' is not one of auto, cpu, cuda"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused_and_bf16_works_without_one(
    corpus: Corpus, encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no CUDA device"):
        train(corpus, Classification(max_length=32), tmp_path / "r", TrainSettings(model=str(encoder), device="cuda"))
    settings = TrainSettings(model=str(encoder), epochs=1, bf16=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert len(train(corpus, Classification(max_length=32), tmp_path / "r", settings).checkpoints) == 2
    assert any("many times as long" in str(each.message) for each in told) != has_bf16()


def test_every_setting_carries_its_help() -> None:
    for field in fields(TrainSettings):
        assert field.metadata["help"].endswith("."), field.name
