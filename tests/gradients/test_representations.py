"""Representations equal dense autograd, an example at a time: errors (x) features is the gradient of the head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, BartConfig, PreTrainedModel, PreTrainedTokenizerFast

import builders
import headwater as hw
from gradients.conftest import NAMES, TARGETS, TEXTS, BagOfWords, batch_of, losses
from gradients.layers.conftest import make_model, token_losses
from headwater.errors import ModelError
from headwater.gradients import Batch
from headwater.gradients.representations import last_layer, representations
from headwater.runs import Example
from language.texts import PAIRS, lm_tokenizer, tiny_lm

HEADS = {
    "bert": "classifier",
    "roberta": "classifier.out_proj",
    "distilbert": "classifier",
    "gpt2": "score",
    "llama": "score",
    "t5": "classification_head.out_proj",
    "bart": "classification_head.out_proj",
    "xlnet": "logits_proj",
    "textcnn": "classifier",
}


def _model(kind: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    if kind != "bart":
        return make_model(kind, tokenizer, double=False)
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64, dropout=0.0,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, init_std=0.2, **NAMES,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config).eval()


def _one(model: nn.Module, batch: Batch, **options: Any) -> dict[str, Tensor]:
    ((rows, found),) = representations(model, [batch], losses, **options)
    assert torch.equal(rows, batch.rows)
    return found


@pytest.mark.parametrize("kind", HEADS)
def test_errors_times_features_are_the_gradient_of_the_head(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = _model(kind, tokenizer)
    head = last_layer(model)
    assert head.name == HEADS[kind]
    batch = batch_of(tokenizer)
    found = _one(model, batch)
    weight = model.get_submodule(head.name).weight
    for row, (text, target) in enumerate(zip(TEXTS, TARGETS, strict=True)):
        alone = tokenizer(text, return_tensors="pt")
        if kind == "xlnet":  # reads its padding
            alone = {name: values[row : row + 1] for name, values in batch.inputs.items()}
        logits = model(**alone).logits
        loss = cross_entropy(logits, torch.tensor([target]))
        dense = torch.autograd.grad(loss, weight)[0]
        assert dense.abs().max() > 1e-4
        torch.testing.assert_close(
            torch.outer(found["errors"][row], found["features"][row]), dense, rtol=2e-4, atol=2e-6
        )
        torch.testing.assert_close(found["logits"][row], logits[0].detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["losses"][row], loss.detach(), rtol=1e-4, atol=1e-5)
    assert {name: tensor.dtype for name, tensor in found.items()} == dict.fromkeys(found, torch.float32)


def test_as_many_tokens_as_rows_do_not_confuse_rows_with_places(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["the heron loves", "the river hates", "my baker avoids", "old mill rain", "warm bread loves"]
    for kind in ("gpt2", "xlnet"):
        model = _model(kind, tokenizer)
        batch = batch_of(tokenizer, texts, [0, 1, 0, 1, 1])
        assert batch.inputs["input_ids"].shape == (5, 5)
        together = _one(model, batch)
        for row, text in enumerate(texts):
            alone = _one(model, batch_of(tokenizer, [text], [row % 2]))
            torch.testing.assert_close(together["features"][row], alone["features"][0], rtol=1e-4, atol=1e-5)


def test_a_place_is_found_where_the_error_is_exactly_0(tokenizer: PreTrainedTokenizerFast) -> None:
    model = _model("gpt2", tokenizer)
    batch = batch_of(tokenizer)
    plain = _one(model, batch)
    weightless = hw.Classification(class_weights={"bad": 0.0, "good": 1.0})
    ((_, found),) = representations(model, [batch], weightless.losses)
    assert not found["errors"][0].any() and found["errors"][1].any()
    assert torch.equal(found["features"], plain["features"]) and torch.equal(found["logits"], plain["logits"])
    with torch.no_grad():
        model.get_submodule("score").weight.mul_(1e6)  # softmax is 0 and 1 in float32
    assert not _one(model, batch)["errors"].any(dim=1).all()
    torch.testing.assert_close(_one(model, batch)["features"], plain["features"])


def test_a_language_models_features_are_the_mean_over_what_it_predicts() -> None:
    tokenizer = lm_tokenizer()
    for kind in ("gpt2", "llama"):
        model = tiny_lm(kind)
        task = hw.CausalLM(max_length=64)
        pairs = PAIRS[:5]
        examples = [Example(row, None, prompt, None, end, "") for row, (prompt, end) in enumerate(pairs)]
        encoded = task.encode(tokenizer, examples)
        batch = Batch(torch.arange(5) + 7, task.collate(encoded, tokenizer), torch.zeros(5, dtype=torch.int64))
        ((rows, found),) = representations(model, [batch], task.losses)
        assert rows.tolist() == [7, 8, 9, 10, 11] and set(found) == {"features", "losses"}
        for row, encoding in enumerate(encoded):
            hidden = model(torch.tensor([encoding.input_ids]), output_hidden_states=True).hidden_states[-1][0]
            places = [place - 1 for place, target in enumerate(encoding.targets or []) if target != -100]
            torch.testing.assert_close(
                found["features"][row], hidden[places].mean(dim=0).detach(), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("kind", ["bert-lm", "t5-lm", "bart-lm"])
def test_masked_and_encoder_decoder_models(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(kind, tokenizer, double=False)
    batch = batch_of(tokenizer)
    ((_, found),) = representations(model, [batch], token_losses)
    seen: list[Tensor] = []
    model.get_submodule(last_layer(model).name).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for row in range(len(TEXTS)):
        length = int(batch.inputs["attention_mask"][row].sum())
        token_losses(
            model, {name: value[row : row + 1, :length] for name, value in batch.inputs.items()}, torch.empty(0)
        )
        torch.testing.assert_close(found["features"][row], seen.pop()[0].mean(dim=0).detach(), rtol=1e-4, atol=1e-5)


def test_a_text_predicted_with_certainty_still_has_features() -> None:
    model = tiny_lm("gpt2", tied=False)
    ids = torch.tensor([[7, 8, 9, 8, 7]])
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states[-1][0]
        sharp = torch.linalg.lstsq(hidden[1:4], 1e4 * torch.eye(len(model.lm_head.weight))[ids[0, 2:]]).solution
        model.lm_head.weight.copy_(sharp.T)
    batch = Batch(
        torch.tensor([0]),
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "targets": torch.tensor([[-100, -100, 9, 8, 7]])},
        torch.tensor([0]),
    )
    ((_, found),) = representations(model, [batch], hw.CausalLM().losses)
    assert found["losses"].item() == 0.0
    torch.testing.assert_close(found["features"][0], hidden[1:4].mean(dim=0), rtol=1e-4, atol=1e-5)


class _Pooled(BagOfWords):
    """The head at every place, and the mean of what it says."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> BagOfWords:
        self.logits = self.head(self.embedding(input_ids)).mean(dim=1)
        return self


class _Mixed(BagOfWords):
    """Every text's logits depend on its neighbour's."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> BagOfWords:
        said = self.head(self.embedding(input_ids).mean(dim=1))
        self.logits = said + said.roll(1, dims=0)
        return self


class _Twice(BagOfWords):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> BagOfWords:
        pooled = self.embedding(input_ids).mean(dim=1)
        self.logits = self.head(pooled) + self.head(-pooled)
        return self


class _Squashed(BagOfWords):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> BagOfWords:
        self.logits = torch.tanh(self.head(self.embedding(input_ids).mean(dim=1)))
        return self


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_Pooled, "the logits of 4 examples come from 44 places"),
        (_Mixed, "does not hold the 4 examples of a batch apart"),
        (_Twice, "head ran 2 times in a pass"),
        (_Squashed, "head does not make the logits"),
    ],
)
def test_a_model_whose_head_serves_no_single_place_of_a_text_is_refused(
    kind: type[BagOfWords], message: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = kind(nn.Embedding(len(tokenizer), 8)).train()
    with pytest.raises(ModelError, match=message):
        list(representations(model, [batch_of(tokenizer)], losses))
    modules = [module for module in model.modules() if module._forward_hooks]
    assert model.training and not modules and all(parameter.requires_grad for parameter in model.parameters())


def test_nothing_is_left_behind_when_a_caller_stops_early(tokenizer: PreTrainedTokenizerFast) -> None:
    model = _model("bert", tokenizer).train()
    stream = representations(model, [batch_of(tokenizer), batch_of(tokenizer)], losses)
    next(stream)
    assert not model.training
    stream.close()
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_numbers_that_are_not_finite_name_the_row(tokenizer: PreTrainedTokenizerFast) -> None:
    model = _model("bert", tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("heron")] = torch.nan
    with pytest.raises(ModelError, match=r"the losses of row 3 are not finite"):
        list(representations(model, [batch_of(tokenizer, first=2)], losses))


def test_bfloat16_comes_near(tokenizer: PreTrainedTokenizerFast) -> None:
    model = _model("gpt2", tokenizer)
    exact, rough = _one(model, batch_of(tokenizer)), _one(model, batch_of(tokenizer), precision="bfloat16")
    assert torch.equal(exact["features"], rough["features"]) is False
    torch.testing.assert_close(rough["features"], exact["features"], rtol=0.1, atol=0.1)
    torch.testing.assert_close(rough["errors"].sum(dim=1), torch.zeros(4), rtol=0, atol=1e-6)


def test_the_bias_of_the_head_is_told(tokenizer: PreTrainedTokenizerFast) -> None:
    assert last_layer(builders.tiny_model("bert", tokenizer)).bias
    assert not last_layer(builders.tiny_model("gpt2", tokenizer)).bias
