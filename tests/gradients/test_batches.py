"""Batches: each row once, within the budget, always the same; and without padding where padding would count."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import builders
import headwater as hw
from attribution.conftest import make_run
from gradients.conftest import NAMES
from headwater.gradients import length_buckets
from oracle import dense_gradients, relative_error

LENGTHS = st.lists(st.integers(0, 40), max_size=60)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(LENGTHS, st.integers(1, 200), st.booleans())
def test_buckets_are_a_partition_within_the_budget(lengths: list[int], budget: int, equal: bool) -> None:
    buckets = length_buckets(lengths, budget, equal=equal)
    assert sorted(row for bucket in buckets for row in bucket) == list(range(len(lengths)))
    for bucket in buckets:
        assert len(bucket) == 1 or len(bucket) * max(lengths[row] for row in bucket) <= budget
        assert not equal or len({max(lengths[row], 1) for row in bucket}) == 1
    assert buckets == length_buckets(list(lengths), budget, equal=equal)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(LENGTHS, st.integers(1, 200))
def test_rows_of_like_length_stand_together(lengths: list[int], budget: int) -> None:
    flat = [lengths[row] for bucket in length_buckets(lengths, budget) for row in bucket]
    assert flat == sorted(lengths, reverse=True)


def _model(kind: str, size: int) -> PreTrainedModel:
    sizes = {
        "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "dropout": 0.0, "summary_last_dropout": 0.0},
        "fnet": {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "hidden_dropout_prob": 0.0},
    }[kind]
    config = AutoConfig.for_model(
        kind, vocab_size=size, pad_token_id=0, initializer_range=0.2, bos_token_id=2, eos_token_id=3, **sizes, **NAMES
    )
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("kind", ["xlnet", "fnet"])
def test_scores_are_those_of_unpadded_texts_where_a_model_reads_its_padding(
    kind: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """XLNet answers from its last place, FNet mixes all places: neither is told by the mask what is padding."""
    model = _model(kind, len(tokenizer))
    ids = tokenizer("the heron loves warm bread .", return_tensors="pt").input_ids
    longer = torch.nn.functional.pad(ids, (0, 4))
    with torch.no_grad():
        alone, padded = model(input_ids=ids).logits, model(input_ids=longer, attention_mask=(longer > 0).long()).logits
    assert not torch.allclose(alone, padded, rtol=1e-2)
    rows = builders.rows(12)
    run = make_run(tmp_path, [model], tokenizer, rows, weights=(1.0,))
    asked, labels = ["a fine film with a lot of heart", "the worst hour", "good"], ["good", "bad", "good"]
    ours = torch.from_numpy(hw.Index.build(run, dtype="float32").scores(asked, labels))
    train = dense_gradients(
        model, tokenizer, [row["text"] for row in rows], [NAMES["label2id"][r["label"]] for r in rows]
    )
    queries = dense_gradients(model, tokenizer, asked, [NAMES["label2id"][label] for label in labels])
    assert relative_error(ours, queries.flatten(1) @ train.flatten(1).T) < 1e-5
