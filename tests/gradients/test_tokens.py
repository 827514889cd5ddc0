"""Token gradients are the dense autograd gradient of each example alone, whatever else stands in its batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

import builders
from gradients.conftest import NAMES, TARGETS, TEXTS, batch_of, dense, losses
from headwater.errors import UsageError
from headwater.gradients import PlaceGradients, fold_places, place_gradients, token_gradients
from headwater.gradients.tokens import NO_PLACE
from oracle import dense_gradients, relative_error


def _t5(size: int) -> PreTrainedModel:
    config = T5Config(
        vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0, eos_token_id=3,
        decoder_start_token_id=0, dropout_rate=0.0, **NAMES,
    )  # fmt: skip
    return T5ForSequenceClassification(config)


def _xlnet(size: int) -> PreTrainedModel:
    config = XLNetConfig(
        vocab_size=size, d_model=16, n_layer=2, n_head=2, d_inner=32, dropout=0.0, summary_last_dropout=0.0,
        pad_token_id=0, initializer_range=0.2, **NAMES,
    )  # fmt: skip
    return XLNetForSequenceClassification(config)


def _gemma3(size: int) -> PreTrainedModel:
    config = Gemma3TextConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=32, max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3,
        initializer_range=0.2, **NAMES,
    )  # fmt: skip
    return Gemma3TextForSequenceClassification(config)


@pytest.mark.parametrize("make", [_t5, _gemma3])
def test_they_equal_dense_autograd_beside_longer_texts(make, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = make(len(tokenizer)).eval()
    ours = dense(token_gradients(model, [batch_of(tokenizer)], losses), model, len(TEXTS))
    assert relative_error(ours, dense_gradients(model, tokenizer, TEXTS, TARGETS)) < 1e-5


def test_both_sides_of_an_encoder_decoder_count(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = _t5(len(tokenizer)).eval()
    truth = dense_gradients(model, tokenizer, TEXTS, TARGETS)
    (places,) = place_gradients(model, [batch_of(tokenizer)], losses)
    decoder = places.places == NO_PLACE
    assert decoder.any() and not decoder.all()
    for side in (decoder, ~decoder):
        alone = PlaceGradients(places.rows[side], places.places[side], places.tokens[side], places.gradients[side])
        assert relative_error(dense([fold_places(alone)], model, len(TEXTS)), truth) > 0.05


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_ids_looked_up_time_first_are_put_back(rows: int, tokenizer: PreTrainedTokenizerFast) -> None:
    """XLNet; eight rows of eight tokens make the matrix of ids square, so that only its content tells the sides."""
    torch.manual_seed(0)
    model = _xlnet(len(tokenizer)).eval()
    texts = [
        f"the {word} loves warm bread ." for word in ("heron", "river", "baker", "mill", "child", "rain", "old", "warm")
    ][:rows]
    targets = [row % 2 for row in range(rows)]
    ours = dense(token_gradients(model, [batch_of(tokenizer, texts, targets)], losses), model, rows)
    assert batch_of(tokenizer, texts, targets).inputs["input_ids"].shape == (rows, 8)
    assert relative_error(ours, dense_gradients(model, tokenizer, texts, targets)) < 1e-5


def test_where_padding_is_eos_a_real_eos_is_left_out_as_dense_autograd_does(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = builders.tiny_model("llama", tokenizer, pad_token_id=3)
    assert model.get_input_embeddings().padding_idx == 3
    batch = batch_of(tokenizer)
    batch.inputs["input_ids"][batch.inputs["input_ids"] == 0] = 3
    ours = list(token_gradients(model, [batch], losses))
    assert (batch.inputs["input_ids"] == 3).sum() > 4 and not any((part.tokens == 3).any() for part in ours)
    # Llama takes its answer from the last token that is no padding: as one text alone, the closing eos is padding too.
    truth = dense_gradients(model, tokenizer, TEXTS, TARGETS)
    assert not truth[:, 3].any()
    assert relative_error(dense(ours, model, len(TEXTS)), truth) < 1e-5


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "modernbert"])
def test_padding_and_batch_mates_change_nothing(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = builders.tiny_model(kind, tokenizer)
    together = dense(token_gradients(model, [batch_of(tokenizer)], losses), model, 4)
    padded = dense(token_gradients(model, [batch_of(tokenizer, width=31)], losses), model, 4)
    alone = [
        batch_of(tokenizer, [text], [target], first=row)
        for row, (text, target) in enumerate(zip(TEXTS, TARGETS, strict=True))
    ]
    assert relative_error(padded, together) < 1e-6
    assert relative_error(dense(token_gradients(model, alone, losses), model, 4), together) < 1e-6


def test_what_the_padding_row_holds_changes_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    model = builders.tiny_model("bert", tokenizer)
    before = dense(token_gradients(model, [batch_of(tokenizer, width=20)], losses), model, 4)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.pad_token_id] = 100.0
    after = dense(token_gradients(model, [batch_of(tokenizer, width=20)], losses), model, 4)
    assert torch.equal(before, after) and not before[:, tokenizer.pad_token_id].any()


@pytest.mark.parametrize("kind", ["bert", "gemma"])
def test_bf16_autocast_stays_within_five_per_cent(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = builders.tiny_model(kind, tokenizer, scale=0.1)
    exact, reduced = (
        dense(token_gradients(model, [batch_of(tokenizer)], losses, precision=precision), model, 4)
        for precision in ("float32", "bfloat16")
    )
    assert reduced.dtype == torch.float32
    assert 0 < float((reduced - exact).norm() / exact.norm()) < 0.05


def test_an_unknown_precision_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    model = builders.tiny_model("bert", tokenizer)
    with pytest.raises(UsageError, match="float32 or bfloat16"):
        list(token_gradients(model, [batch_of(tokenizer)], losses, precision="bf16"))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(-100, 100)), max_size=40))
def test_folding_is_a_dictionary_of_sums(parts: list[tuple[int, int, int]]) -> None:
    sums: dict[tuple[int, int], int] = {}
    for row, token, value in parts:
        sums[row, token] = sums.get((row, token), 0) + value
    rows, tokens, values = (torch.tensor([part[at] for part in parts], dtype=torch.long) for at in range(3))
    vectors = torch.stack([values, -2 * values], dim=1).float() if parts else torch.zeros(0, 2)
    folded = fold_places(PlaceGradients(rows + 7, torch.arange(len(parts)), tokens, vectors))
    assert list(zip((folded.rows - 7).tolist(), folded.tokens.tolist(), strict=True)) == sorted(sums)
    assert folded.gradients.tolist() == [[sums[key], -2 * sums[key]] for key in sorted(sums)]
