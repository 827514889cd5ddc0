"""Cancellation ratios against their definitions over dense gradients."""

import math

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from gradients.layers.conftest import batch_of, losses_of, make_model, one_by_one
from headwater.errors import UsageError
from headwater.gradients.layers import CancellationSums, capture_layers, select_layers

MORE = ["the river loves bread .", "an old miller resents long winters"]


@pytest.mark.parametrize("pattern", ["all", "word-embeddings", "last", "bert.encoder.layer.0", "*LayerNorm"])
def test_all_three_forms_equal_brute_force(pattern: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model, losses = make_model("bert", tokenizer), losses_of("bert")
    layers = select_layers(model, pattern).layers
    batches, rates = [batch_of(tokenizer), batch_of(tokenizer, MORE, [1, 0])], [0.5, 0.25]
    sums = CancellationSums(layers)
    with capture_layers(model, layers) as capture:
        for batch, rate in zip(batches, rates, strict=True):
            sums.add(capture.factors(batch, losses), rate)
    steps = []
    for batch, rate in zip(batches, rates, strict=True):
        dense = one_by_one(model, batch, losses)
        steps.append(rate * torch.cat([dense[n].flatten(1) for layer in layers for n in layer.parameters], dim=1))
    every = torch.cat(steps)
    generator = torch.Generator().manual_seed(0)
    changes = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in model.named_parameters()}
    given = torch.cat([changes[name].flatten() for layer in layers for name in layer.parameters])
    for found, moved in ((sums.ratios(), every.sum(dim=0)), (sums.ratios(changes), given)):
        touched = every.abs().sum(dim=0) > 1e-15
        elements = (every.abs().sum(dim=0) / moved.abs())[touched]
        assert found.norm == pytest.approx(float(every.norm(dim=1).sum() / moved.norm()), rel=1e-6)
        assert found.gradient == pytest.approx(float(every.abs().sum() / every.sum(dim=0).abs().sum()), rel=1e-6)
        assert found.entries == pytest.approx(int(touched.sum()), rel=0.05)  # a rounding error touches, too
        assert found.element == pytest.approx(float(elements.median()), rel=0.05)
        assert found.examples == 6


def test_one_example_cancels_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("bert", tokenizer)
    layers = select_layers(model, "word-embeddings,last").layers
    sums = CancellationSums(layers)
    with capture_layers(model, layers) as capture:
        sums.add(capture.factors(batch_of(tokenizer, MORE[:1], [1]), losses_of("bert")))
    found = sums.ratios()
    assert found.norm == pytest.approx(1) and found.gradient == pytest.approx(1) and found.element == pytest.approx(1)


def test_opposite_examples_cancel_all_and_nothing_is_no_number(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("bert", tokenizer)
    layers = select_layers(model, "last").layers
    sums = CancellationSums(layers)
    empty = sums.ratios()
    assert math.isnan(empty.norm) and math.isnan(empty.gradient) and math.isnan(empty.element)
    with capture_layers(model, layers) as capture:
        factors = capture.factors(batch_of(tokenizer), losses_of("bert"))
    sums.add(factors, 1.0)
    sums.add(factors, -1.0)
    assert sums.ratios().norm == math.inf and sums.ratios().gradient == math.inf
    with pytest.raises(UsageError, match=r"change of classifier\.weight is not given"):
        sums.ratios({})
    with pytest.raises(UsageError, match="no gradients of classifier"):
        sums.add({})
