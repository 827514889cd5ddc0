"""Places of a text add up to the dot product, and each is what its own place pushed."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from gradients.layers.conftest import batch_of, losses_of, make_model
from headwater.errors import UsageError
from headwater.gradients import Batch
from headwater.gradients.layers import (
    Projector,
    capture_layers,
    denominators,
    divide,
    position_dots,
    project,
    select_layers,
)
from oracle import relative_error

QUERIES = ["the river loves bread .", "an old miller resents long winters"]


@pytest.mark.parametrize("projector", [None, Projector(dim=4), Projector(dim=4, exact_below=0)])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama-lm", "bert-lm", "t5-lm", "textcnn", "albert"])
def test_places_add_up_to_the_dot_product(kind: str, projector, tokenizer: PreTrainedTokenizerFast) -> None:
    model, losses = make_model(kind, tokenizer), losses_of(kind)
    layers = select_layers(model, "all", tied="joint").layers
    projections = projector.of(layers) if projector else {}
    train = batch_of(tokenizer)
    width = train.inputs["input_ids"].shape[1]
    with capture_layers(model, layers) as capture:
        one, other = capture.factors(train, losses), capture.factors(batch_of(tokenizer, QUERIES, [1, 0]), losses)
    for layer in layers:
        projection = projections.get(layer.name)
        queries = project(other[layer.name], projection)
        truth = queries @ project(one[layer.name], projection).T
        found = position_dots(one[layer.name], queries, width, projection)
        total = sum(call.sum(dim=2) for call in found.calls)
        assert float((total - truth).abs().max()) <= 1e-9 * max(1e-6, float(truth.abs().max())), layer.name
        if found.token_wise:
            assert found.over_text().shape == (2, 4, width)


def test_a_place_is_what_its_own_factors_push(tokenizer: PreTrainedTokenizerFast) -> None:
    model, losses = make_model("gpt2", tokenizer), losses_of("gpt2")
    name = "transformer.h.0.mlp.c_fc"
    layers = select_layers(model, name).layers
    train = batch_of(tokenizer)
    with capture_layers(model, layers) as capture:
        one = capture.factors(train, losses)[name]
    queries = one.dense()[:1]
    found = position_dots(one, queries, train.inputs["input_ids"].shape[1]).over_text()[0]
    (part,) = one.parts
    for row, place in ((0, 0), (1, 3), (3, 2)):
        weight = torch.outer(part.right[row, place], part.left[row, place])  # Conv1D holds [i, o]
        pushed = torch.cat([weight.flatten(), part.left[row, place]])
        assert abs(float(found[row, place] - pushed @ queries[0])) < 1e-9 * float(found.abs().max())


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("bert", "bert.pooler.dense", r"sees 1 place\(s\) where the texts have"),
        ("textcnn", "convolution1", "covers several tokens"),
        ("bert", "bert.encoder.layer.0.output.dense", ""),
        ("albert", "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn", ""),
    ],
)
def test_it_says_when_places_are_not_those_of_the_text(kind, name, reason, tokenizer) -> None:
    model = make_model(kind, tokenizer)
    layers = select_layers(model, name).layers
    batch = batch_of(tokenizer)
    with capture_layers(model, layers) as capture:
        factors = capture.factors(batch, losses_of(kind))[name]
    found = position_dots(factors, factors.dense(), batch.inputs["input_ids"].shape[1])
    assert found.token_wise == (not reason)
    if reason:
        with pytest.raises(UsageError, match=reason):
            found.over_text()
    else:
        assert relative_error(found.over_text().sum(dim=2), factors.dense() @ factors.dense().T) < 1e-9
    with pytest.raises(UsageError, match="numbers are needed"):
        position_dots(factors, factors.dense()[:, 1:], 8)


def test_two_texts_of_different_widths_are_told_apart(tokenizer: PreTrainedTokenizerFast) -> None:
    """T5's shared matrix is looked up by encoder and decoder."""
    model, batch = make_model("t5-lm", tokenizer), batch_of(tokenizer)
    width = batch.inputs["input_ids"].shape[1]

    def losses(model, inputs, targets) -> torch.Tensor:
        ids = inputs["input_ids"]
        logits = model(**inputs, decoder_input_ids=ids[:, :5]).logits
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:6], reduction="none").sum(1)

    inputs = {name: value for name, value in batch.inputs.items() if name != "token_type_ids"}
    layers = select_layers(model, "word-embeddings").layers
    with capture_layers(model, layers) as capture:
        factors = capture.factors(Batch(batch.rows, inputs, batch.targets), losses)["shared"]
    found = position_dots(factors, factors.dense(), width)
    with pytest.raises(UsageError, match=r"sees 5 place\(s\)"):
        found.over_text()
    with pytest.raises(UsageError, match="sees 5"):
        found.of_width(4)
    total = found.of_width(width).sum(dim=2) + found.of_width(5).sum(dim=2)
    assert relative_error(total, factors.dense() @ factors.dense().T) < 1e-9


def test_a_gradient_divided_entry_by_entry_has_no_places(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("bert", tokenizer)
    layers = select_layers(model, "bert.encoder.layer.0.output.dense").layers
    moments = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    with capture_layers(model, layers) as capture:
        (factors,) = capture.factors(batch_of(tokenizer), losses_of("bert")).values()
    divided = divide(factors, denominators(layers, moments)[layers[0].name])
    with pytest.raises(UsageError, match="divided"):
        position_dots(divided, factors.dense(), 12)
