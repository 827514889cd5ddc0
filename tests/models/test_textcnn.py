"""TextCNN: the paper's convnet, whose scores depend on nothing but the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from headwater.models.textcnn import TextCNN, TextCNNConfig


@pytest.fixture(scope="module")
def model() -> TextCNN:
    torch.manual_seed(3)
    config = TextCNNConfig(vocab_size=40, hidden_size=6, channels=5, width=3, max_length=12, num_labels=3)
    return TextCNN(config).eval()


def logits(model: TextCNN, rows: list[list[int]], *, width: int | None = None, filler: int = 0) -> np.ndarray:
    width = width or max(map(len, rows))
    ids = torch.tensor([row + [filler] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits.numpy()


def by_hand(model: TextCNN, row: list[int]) -> np.ndarray:
    """The forward pass in plain numpy loops."""
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    hidden = weights["embedding.weight"][row + [0] * (model.config.max_length - len(row))]  # [places, hidden]
    for layer in ("convolution1", "convolution2", "convolution3"):
        kernel, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        width = kernel.shape[2]
        places = []
        for start in range(len(hidden) - width + 1):
            window = hidden[start : start + width]  # [width, in]
            places.append([np.sum(kernel[out].T * window) + bias[out] for out in range(kernel.shape[0])])
        hidden = np.maximum(np.array(places), 0)
    return weights["classifier.weight"] @ hidden.max(axis=0) + weights["classifier.bias"]


def test_logits_equal_the_formula_computed_by_hand(model: TextCNN) -> None:
    for row in ([7, 8, 9, 10, 7, 30], [5], list(range(1, 13))):
        np.testing.assert_allclose(logits(model, [row])[0], by_hand(model, row), rtol=1e-5, atol=1e-6)


def test_scores_do_not_depend_on_batch_mates_or_padding(model: TextCNN) -> None:
    short, long = [4, 9, 2], list(range(3, 15))
    alone = logits(model, [short])[0]
    np.testing.assert_array_equal(alone, logits(model, [short, long])[0])
    np.testing.assert_array_equal(alone, logits(model, [short], width=12)[0])
    np.testing.assert_array_equal(alone, logits(model, [short], width=30)[0])
    np.testing.assert_array_equal(alone, logits(model, [short], width=9, filler=17)[0])


def test_a_text_of_one_token_works(model: TextCNN) -> None:
    assert np.isfinite(logits(model, [[5]])).all()


def test_a_text_longer_than_the_model_reads_is_refused(model: TextCNN) -> None:
    with pytest.raises(ValueError, match=r"13 tokens is longer .* \(12\)"):
        logits(model, [[5] * 13])


def test_a_max_length_too_short_for_the_convolutions_is_refused() -> None:
    with pytest.raises(ValueError, match="need 9"):
        TextCNNConfig(max_length=8)


def test_the_loss_is_the_mean_cross_entropy(model: TextCNN) -> None:
    rows, labels = [[5, 6, 7], [8, 9, 3]], [2, 0]
    with torch.no_grad():
        loss = model(input_ids=torch.tensor(rows), labels=torch.tensor(labels)).loss
    scores = np.stack([by_hand(model, row) for row in rows])
    picked = scores[np.arange(2), labels] - np.log(np.exp(scores).sum(axis=1))
    assert float(loss) == pytest.approx(-picked.mean(), rel=1e-5)


def test_save_and_load_through_the_auto_classes_keeps_every_weight(model: TextCNN, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, local_files_only=True).eval()
    assert isinstance(loaded, TextCNN)
    assert AutoConfig.from_pretrained(tmp_path).width == 3
    for name, value in model.named_parameters():
        assert torch.equal(value, dict(loaded.named_parameters())[name]), name
    assert loaded.get_input_embeddings() is loaded.embedding


def test_padding_never_learns() -> None:
    torch.manual_seed(0)
    model = TextCNN(TextCNNConfig(vocab_size=9, hidden_size=4, channels=3, max_length=10)).train()
    model(input_ids=torch.tensor([[3, 4, 0, 0]]), labels=torch.tensor([1])).loss.backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None
    assert not gradient[0].any() and not model.embedding.weight[0].any()
    assert gradient[3].any()


def test_the_paper_s_defaults_have_its_shape() -> None:
    model = TextCNN(TextCNNConfig(num_labels=4))
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "embedding.weight": (25_000, 128),
        "convolution1.weight": (50, 128, 5),
        "convolution2.weight": (50, 50, 5),
        "convolution3.weight": (50, 50, 1),
        "classifier.weight": (4, 50),
    }
    assert model.embedding.weight.abs().max().item() <= 0.05 and model.embedding.weight[1:].any()
