"""Repeated training: what `retrain` gives, to the last bit, or the same function in other arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import builders
from headwater.errors import UsageError
from headwater.models.textcnn import TextCNN, TextCNNConfig
from headwater.runs import Classification, Corpus, CustomLoss, Recipe, Run
from headwater.training import TrainSettings, predict, retrain, train
from headwater.training.quick_textcnn import QuickTextCNN
from headwater.training.repeat import RepeatedTraining, why_not_repeated
from headwater.training.trimmed import TrimmedEmbedding, trim, why_not_trimmed


@pytest.fixture(scope="module")
def textcnn(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained on twice the texts that its retrainings see, so that there is vocabulary to trim."""
    corpus = Corpus.read(builders.rows(48))
    settings = TrainSettings(model="textcnn", epochs=3, batch_size=8, max_length=24, device="cpu", learning_rate=1e-2)
    return train(corpus, Classification(), tmp_path_factory.mktemp("textcnn") / "r", settings)


@pytest.fixture(scope="module")
def queries() -> Corpus:
    return Corpus.read(builders.rows(12, seed=3))


ROWS = [row for row in range(48) if row % 3]


def with_arguments(run: Run, **changes: Any) -> Run:
    recipe = run.need_recipe()
    return replace(run, recipe=Recipe(recipe.arguments | changes, recipe.initial, recipe.max_length, recipe.seed))


def logits(model: Any, run: Run, texts: Corpus) -> np.ndarray:
    return predict(model, run.tokenizer, run.task, texts).logits


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_decay": 0.1, "max_grad_norm": 0.05, "lr_scheduler_type": "cosine"},
        {"optim": "sgd", "optim_args": "momentum=0.9", "weight_decay": 0.01, "learning_rate": 0.05},
        {"train_sampling_strategy": "random", "max_grad_norm": 0.0, "num_train_epochs": 2.5},
        {"max_steps": 7, "warmup_steps": 3, "optim": "rmsprop"},
    ],
    ids=["as trained", "decay, clipping", "sgd", "random order", "seven steps"],
)
def test_every_bit_is_that_of_retrain_with_fewer_word_vectors(
    textcnn: Run, queries: Corpus, changes: dict[str, Any]
) -> None:
    run = with_arguments(textcnn, **changes)
    sparse = replace(run, corpus=run.corpus.take(range(40)))  # the other rows' words go unread
    repeated = RepeatedTraining(sparse, texts=[queries.take([0])])
    rows = [row for row in ROWS if row < 40]
    for seed in (None,) if changes else (5, None):
        mine = repeated.train(rows, seed=seed)
        table = mine.get_input_embeddings()
        assert isinstance(table, TrimmedEmbedding) and table.num_embeddings < len(run.tokenizer)
        theirs = retrain(sparse, rows=rows, seed=seed)
        np.testing.assert_array_equal(logits(mine, run, queries.take([0])), logits(theirs, run, queries.take([0])))
        whole, kept = theirs.state_dict(), (table.place >= 0).nonzero()[:, 0]
        for name, value in mine.state_dict().items():
            assert torch.equal(value, whole[name][kept] if name == "embedding.weight" else whole[name]), name


def test_an_encoder_with_dropout_is_repeated_to_the_bit(run: Run, queries: Corpus) -> None:
    repeated = RepeatedTraining(run, texts=[queries])
    for seed in (1, 2):
        mine = logits(repeated.train(ROWS, seed=seed), run, queries)
        np.testing.assert_array_equal(mine, logits(retrain(run, rows=ROWS, seed=seed), run, queries))


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
def test_matrices_that_the_optimizer_takes_in_pieces_come_out_the_same(
    textcnn: Run, queries: Corpus, monkeypatch: pytest.MonkeyPatch, optim: str
) -> None:
    run = with_arguments(textcnn, optim=optim, optim_args=None, weight_decay=0.1)
    monkeypatch.setattr("headwater.training.repeat._PIECE_ROWS", 7)
    mine = logits(RepeatedTraining(run, texts=[queries]).train(ROWS, seed=1), run, queries)
    np.testing.assert_array_equal(mine, logits(retrain(run, rows=ROWS, seed=1), run, queries))


def test_a_training_leaves_nothing_for_the_next_and_does_not_touch_the_process_randomness(
    textcnn: Run, queries: Corpus
) -> None:
    repeated = RepeatedTraining(textcnn, texts=[queries])
    before = torch.random.get_rng_state()
    first = logits(repeated.train(ROWS, seed=1), textcnn, queries)
    assert not np.array_equal(logits(repeated.train(ROWS[:9], seed=2), textcnn, queries), first)
    np.testing.assert_array_equal(logits(repeated.train(ROWS, seed=1), textcnn, queries), first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_quick_arithmetic_gives_the_same_up_to_rounding(textcnn: Run, queries: Corpus) -> None:
    """Rounding grows while training: by less than a hundredth of what another seed changes."""
    quick = RepeatedTraining(textcnn, texts=[queries], arithmetic="quick")
    for seed in (0, 1):
        plain = logits(retrain(textcnn, rows=ROWS, seed=seed), textcnn, queries)
        other = logits(retrain(textcnn, rows=ROWS, seed=seed + 10), textcnn, queries)
        found = logits(quick.train(ROWS, seed=seed), textcnn, queries)
        np.testing.assert_allclose(found, plain, atol=1e-3)
        assert np.abs(found - plain).max() < 0.01 * np.abs(other - plain).max()


@pytest.mark.parametrize("trimmed", [False, True])
def test_quick_textcnn_is_textcnn_and_so_are_its_gradients(trimmed: bool) -> None:
    torch.manual_seed(0)
    plain = TextCNN(TextCNNConfig(vocab_size=60, hidden_size=16, channels=7, width=3, max_length=20, num_labels=3))
    with torch.no_grad():
        for value in plain.parameters():
            value.add_(0.3 * torch.randn_like(value))
        plain.embedding.weight[0] = 0.0
    copied = TextCNN(plain.config)
    copied.load_state_dict(plain.state_dict())
    ids = torch.randint(1, 30, (5, 12))
    mask = torch.ones_like(ids)
    for row, length in enumerate((12, 3, 1, 8, 11)):
        mask[row, length:] = 0
    if trimmed:
        trim(copied, range(30))
    quick = QuickTextCNN.of(copied)
    for places in (12, 4):  # at 4 the padding is cut, and none is left of the longest text
        batch = {"input_ids": ids[:, :places], "attention_mask": mask[:, :places]}
        found = []
        for model in (plain, quick):
            model.zero_grad()
            answer = model(**batch, labels=torch.tensor([0, 2, 1, 1, 0]))
            answer.loss.backward()
            found.append((answer.logits, {name: value.grad for name, value in model.named_parameters()}))
        torch.testing.assert_close(found[1][0], found[0][0])
        for name, gradient in found[1][1].items():
            expected = found[0][1][name]
            expected = expected[:30] if trimmed and name == "embedding.weight" else expected
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    full = {"input_ids": torch.randint(1, 30, (2, 20))}  # no room for padding
    torch.testing.assert_close(quick(**full).logits, plain(**full).logits)


def test_a_word_that_was_not_kept_is_an_error_and_never_another_word() -> None:
    model = TextCNN(TextCNNConfig(vocab_size=60, hidden_size=16, max_length=20))
    assert trim(model, [3, 5, 3]) == 3  # and padding
    assert model(input_ids=torch.tensor([[3, 5, 0]])).logits.shape == (1, 2)
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[3, 4]]))
    assert "is a TrimmedEmbedding" in why_not_trimmed(model)


def test_tables_that_other_layers_share_or_of_odd_width_stay_whole(run: Run) -> None:
    tied = builders.tiny_model("bert")
    tied.tie = torch.nn.Linear(16, 5, bias=False)
    tied.tie.weight = tied.get_input_embeddings().weight
    assert "tied" in why_not_trimmed(tied)
    assert "24 wide" in why_not_trimmed(TextCNN(TextCNNConfig(vocab_size=9, hidden_size=24, max_length=20)))
    assert why_not_trimmed(run.checkpoints[-1].load()) == ""


def test_what_only_trainer_knows_how_to_do_is_refused_by_name(run: Run, textcnn: Run) -> None:
    assert why_not_repeated(textcnn) == why_not_repeated(run) == ""
    cases = {
        "gradient_accumulation_steps=2": {"gradient_accumulation_steps": 2},
        "bf16=True": {"bf16": True},
        "neftune_noise_alpha=5.0": {"neftune_noise_alpha": 5.0},
        "optimizer is adafactor": {"optim": "adafactor"},
    }
    for why, changes in cases.items():
        assert why in why_not_repeated(with_arguments(run, **changes))
        with pytest.raises(UsageError, match=why):
            RepeatedTraining(with_arguments(run, **changes))
    with pytest.raises(UsageError, match="quick arithmetic is for TextCNN; this model is bert"):
        RepeatedTraining(run, arithmetic="quick")


def focal(model: Any, batch: Any, targets: torch.Tensor) -> torch.Tensor:
    chances = model(**batch).logits.softmax(dim=-1)[torch.arange(len(targets)), targets]
    return -((1 - chances) ** 2) * chances.log()


def test_a_loss_of_the_user_s_own_and_smoothed_labels_are_repeated_too(textcnn: Run, queries: Corpus) -> None:
    for task in (CustomLoss(textcnn.task, focal), replace(textcnn.task, label_smoothing=0.1)):  # type: ignore[type-var]
        run = replace(textcnn, task=task)
        mine = logits(RepeatedTraining(run, texts=[queries]).train(ROWS, seed=1), run, queries)
        np.testing.assert_array_equal(mine, logits(retrain(run, rows=ROWS, seed=1), run, queries))
        assert not np.array_equal(mine, logits(retrain(textcnn, rows=ROWS, seed=1), run, queries))
