"""Index scores are the exact inner product of dense embedding gradients, for every architecture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from captum.influence import TracInCP
from torch import Tensor
from torch.utils.data import TensorDataset
from transformers import BartConfig, BartForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import WEIGHTS, make_run
from headwater.models.textcnn import TextCNN, TextCNNConfig
from oracle import dense_gradients, relative_error

QUERIES = ["a fine film with a lot of heart", "the worst hour of my life", "good"]
LABELS = ["good", "bad", "good"]


def _model(kind: str, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    names = {"label2id": builders.LABEL2ID, "id2label": {v: k for k, v in builders.LABEL2ID.items()}}
    torch.manual_seed(seed)
    if kind == "textcnn":
        return TextCNN(TextCNNConfig(vocab_size=len(tokenizer), hidden_size=16, channels=12, max_length=32, **names))
    if kind == "bart":
        config = BartConfig(
            vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64,
            scale_embedding=True, pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3,
            dropout=0.0, init_std=0.2, **names,
        )  # fmt: skip
        return BartForSequenceClassification(config)
    return builders.tiny_model(kind, tokenizer, seed=seed)


KINDS = ("bert", "roberta", "distilbert", "modernbert", "albert", "electra", "deberta-v2", "gpt2", "llama", "gemma")


@pytest.mark.parametrize("kind", [*KINDS, "bart", "textcnn"])
def test_scores_equal_the_dense_autograd_product_on_the_embedding_matrix(
    kind: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    models = [_model(kind, tokenizer, seed) for seed in (0, 1)]
    rows = builders.rows(14)
    run = make_run(tmp_path, models, tokenizer, rows)
    ours = torch.from_numpy(hw.Index.build(run, dtype="float32").scores(QUERIES, LABELS))
    truth = torch.zeros(len(QUERIES), len(rows), dtype=torch.float64)
    for model, weight in zip(models, WEIGHTS, strict=True):
        targets = [builders.LABEL2ID[row["label"]] for row in rows]
        train = dense_gradients(model, tokenizer, [row["text"] for row in rows], targets, double=True)
        asked = dense_gradients(model, tokenizer, QUERIES, [builders.LABEL2ID[label] for label in LABELS], double=True)
        truth += weight * asked.flatten(1) @ train.flatten(1).T
    assert relative_error(ours.double(), truth) < 1e-5


def test_scores_equal_captum_tracincp_on_that_layer(run: hw.Run, index: hw.Index, tmp_path: Path) -> None:
    class Logits(torch.nn.Module):
        def __init__(self, model: PreTrainedModel) -> None:
            super().__init__()
            self.m = model

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.m(input_ids=ids, attention_mask=mask).logits

    texts = [example.text for example in run.corpus]
    encoded = run.tokenizer([*texts, *QUERIES], padding=True, truncation=True, max_length=32, return_tensors="pt")
    labels = [str(example.label) for example in run.corpus] + LABELS
    targets = torch.tensor([builders.LABEL2ID[label] for label in labels])
    ids, mask, n = encoded["input_ids"], encoded["attention_mask"], len(texts)
    model = Logits(run.checkpoints[0].load())
    weight_of = {}
    for checkpoint in run.checkpoints:
        path = str(tmp_path / checkpoint.name)
        torch.save(checkpoint.load().state_dict(), path)
        weight_of[path] = checkpoint.weight

    def load(wrapped: torch.nn.Module, path: str) -> float:
        wrapped.m.load_state_dict(torch.load(path, weights_only=True))
        return weight_of[path]

    captum = TracInCP(
        model, TensorDataset(ids[:n], mask[:n], targets[:n]), list(weight_of), checkpoints_load_func=load,
        layers=["m.bert.embeddings.word_embeddings"], loss_fn=torch.nn.CrossEntropyLoss(reduction="none"),
        batch_size=8, sample_wise_grads_per_batch=False,
    )  # fmt: skip
    theirs = captum.influence((ids[n:], mask[n:], targets[n:]))
    assert relative_error(torch.from_numpy(index.scores(QUERIES, LABELS)), theirs) < 1e-5


def test_text_pairs_equal_the_dense_product(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = builders.rows(10, pairs=True)
    model = builders.tiny_model("bert", tokenizer)
    task = hw.Classification(pairs=True, max_length=32)
    columns = hw.Columns(text_pair="pair")
    run = make_run(tmp_path, [model], tokenizer, rows, weights=(1.0,), columns=columns, task=task)
    asked = [("a fine film", "it is good"), ("dull", "the worst hour")]
    ours = hw.Index.build(run, dtype="float32").scores(asked, ["good", "bad"])
    targets = [builders.LABEL2ID[row["label"]] for row in rows]
    train = dense_gradients(model, tokenizer, [(row["text"], row["pair"]) for row in rows], targets)
    queries = dense_gradients(model, tokenizer, asked, [builders.LABEL2ID["good"], builders.LABEL2ID["bad"]])
    assert relative_error(torch.from_numpy(ours), queries.flatten(1) @ train.flatten(1).T) < 1e-5


def test_label_smoothing_and_class_weights_enter_the_gradient(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = builders.rows(6)
    model = builders.tiny_model("bert", tokenizer)
    weights = {"good": 2.0, "bad": 0.5}
    task = hw.Classification(max_length=32, label_smoothing=0.1, class_weights=weights)
    run = make_run(tmp_path, [model], tokenizer, rows, weights=(1.0,), task=task)
    ours = hw.Index.build(run, dtype="float32").scores(["a fine film"], ["good"])
    matrix = model.requires_grad_(True).get_input_embeddings().weight
    ordered = torch.tensor([weights[name] for name, _ in sorted(builders.LABEL2ID.items(), key=lambda item: item[1])])
    loss = torch.nn.CrossEntropyLoss(weight=ordered, label_smoothing=0.1, reduction="sum")

    def gradient(text: str, label: str) -> Tensor:
        logits = model(**tokenizer(text, return_tensors="pt")).logits
        return torch.autograd.grad(loss(logits, torch.tensor([builders.LABEL2ID[label]])), matrix)[0].flatten()

    asked = gradient("a fine film", "good")
    truth = torch.stack([asked @ gradient(row["text"], row["label"]) for row in rows])
    assert relative_error(torch.from_numpy(ours[0]), truth) < 1e-5


def test_a_row_s_influence_on_itself_is_never_negative(run: hw.Run, index: hw.Index) -> None:
    texts = [example.text for example in run.corpus]
    scores = index.scores(texts, [str(example.label) for example in run.corpus])
    assert (np.diag(scores) > 0).all()


def test_twins_with_opposite_labels_keep_their_own_scores(fresh_run) -> None:
    rows = builders.rows(8)
    rows += [{"text": rows[0]["text"], "label": "bad" if rows[0]["label"] == "good" else "good"}]
    scores = hw.Index.build(fresh_run(rows)).scores([rows[0]["text"]], [rows[0]["label"]])[0]
    assert scores[0] > 0 > scores[8]


def test_batch_size_order_and_padding_do_not_change_scores(fresh_run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fresh_run()
    together = hw.Index.build(run, run.folder / "a", dtype="float32").scores(QUERIES, LABELS)
    monkeypatch.setattr("headwater.gradients.batches.BATCH_TOKENS", 1)  # one row a batch: no padding, no batch mates
    alone = hw.Index.build(run, run.folder / "b", dtype="float32").scores(QUERIES, LABELS)
    turned = hw.Index.open(run.folder / "b").scores(QUERIES[::-1], LABELS[::-1])[::-1]
    assert np.abs(together - alone).max() < 1e-6 * np.abs(together).max()
    assert np.abs(turned - alone).max() < 1e-6 * np.abs(together).max()


def test_float16_storage_is_within_its_stated_bound_of_float32(run: hw.Run, index: hw.Index, tmp_path: Path) -> None:
    exact = index.scores(QUERIES, LABELS)
    stored = hw.Index.build(run, tmp_path / "half").scores(QUERIES, LABELS)
    assert np.abs(stored - exact).max() < 1e-3 * np.abs(exact).max()


def test_one_checkpoint_can_be_asked_alone_and_the_parts_add_up(run: hw.Run, index: hw.Index) -> None:
    whole = index.scores(QUERIES, LABELS)
    parts = [index.scores(QUERIES, LABELS, checkpoints=(name.name,)) for name in run.checkpoints]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-4, atol=1e-6 * np.abs(whole).max())


def test_scores_stream_to_a_file(index: hw.Index, tmp_path: Path) -> None:
    many = QUERIES * 60
    mapped = index.scores(many, LABELS * 60, out=tmp_path / "s.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), mapped)
    np.testing.assert_allclose(mapped[-3:], index.scores(QUERIES, LABELS), rtol=1e-4, atol=1e-9)
