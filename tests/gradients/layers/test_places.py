"""Place by place a projected gradient adds up to itself, and each place is what its own factors push."""

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from gradients.layers.conftest import batch_of, losses_of, make_model
from headwater.gradients import Batch
from headwater.gradients.layers import (
    Projector,
    adam_steps,
    capture_layers,
    denominators,
    divide,
    place_vectors,
    project,
    select_layers,
)
from headwater.gradients.layers.optimizer import AdamState
from oracle import relative_error

PROJECTORS = [None, Projector(dim=4), Projector(dim=4, exact_below=0), Projector(dim=24, exact_below=0)]


def captured(kind: str, tokenizer: PreTrainedTokenizerFast, pattern: str = "all", tied="joint"):
    model, batch = make_model(kind, tokenizer), batch_of(tokenizer)
    layers = select_layers(model, pattern, tied=tied).layers
    with capture_layers(model, layers) as capture:
        return model, layers, capture.factors(batch, losses_of(kind)), batch.inputs["input_ids"].shape[1]


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("projector", PROJECTORS)
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama-lm", "bert-lm", "t5-lm", "textcnn", "albert"])
def test_places_and_rest_add_up_to_the_projected_gradient(
    kind: str, projector: Projector | None, divided: bool, tokenizer: PreTrainedTokenizerFast, monkeypatch
) -> None:
    monkeypatch.setattr("headwater.gradients.layers.places.CHUNK_BYTES", 1 << 12)  # pieces of one example
    model, layers, factors, width = captured(kind, tokenizer)
    moments = {name: torch.rand(p.shape, dtype=p.dtype) + 0.1 for name, p in model.named_parameters()}
    by = denominators(layers, moments)
    projections = projector.of(layers) if projector else {}
    token_wise = 0
    for layer in layers:
        own, projection = factors[layer.name], projections.get(layer.name)
        truth = project(divide(own, by[layer.name]) if divided else own, projection)
        found = place_vectors(own, projection, width, by=by[layer.name] if divided else None)
        total = found.rest
        if found.vectors is not None:
            assert found.vectors.shape == (4, width, truth.shape[1]) and found.vectors.dtype == torch.float32
            total = total + found.vectors.sum(dim=1)
            token_wise += not found.rest.any()
        assert float((total - truth).abs().max()) <= 1e-5 * max(1e-6, float(truth.abs().max())), layer.name
    assert token_wise > len(layers) // 2 or kind == "textcnn"  # it pads every text to 20 places by itself


@pytest.mark.parametrize("projector", PROJECTORS)
def test_a_place_is_what_its_own_factors_push(projector, tokenizer: PreTrainedTokenizerFast) -> None:
    """Conv1D holds [i, o]: the weight's gradient of one place is right left^T, then the bias's."""
    name = "transformer.h.0.mlp.c_fc"
    _, layers, factors, width = captured("gpt2", tokenizer, name)
    (part,) = factors[name].parts
    found = place_vectors(factors[name], projector and projector.of(layers)[name], width).vectors
    assert found is not None
    for row, place in ((0, 0), (1, 3), (3, 2)):
        left, right = part.left[row, place], torch.cat([part.right[row, place], torch.ones(1)])
        projection = projector.of(layers)[name] if projector else None
        if projection is None or projection.exact:
            expected = torch.cat([torch.outer(right[:-1], left).flatten(), left])
        else:
            near = projection.to(left)
            left = left if near.left is None else near.left.T @ left
            right = right if near.right is None else near.right.T @ right
            expected = torch.outer(left, right).flatten()
        assert relative_error(found[row, place], expected) < 1e-5


def test_an_embeddings_place_pushes_its_own_token_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    _, layers, factors, width = captured("bert", tokenizer, "word-embeddings", "separate")
    (layer,) = layers
    found = place_vectors(factors[layer.name], None, width).vectors
    assert found is not None
    ids = batch_of(tokenizer).inputs["input_ids"]
    for row, place in ((0, 1), (3, 2)):
        pushed = found[row, place].reshape(layer.shape).abs().sum(dim=1).nonzero().flatten().tolist()
        assert pushed == [int(ids[row, place])]
    assert not found[batch_of(tokenizer).inputs["attention_mask"] == 0].any()  # padding pushes nothing


@pytest.mark.parametrize(
    ("kind", "name"), [("bert", "bert.pooler.dense"), ("bert", "classifier"), ("textcnn", "convolution1")]
)
def test_what_sees_no_single_token_is_the_rest(kind: str, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    _, _, factors, width = captured(kind, tokenizer, name)
    found = place_vectors(factors[name], None, width)
    assert found.vectors is None
    assert relative_error(found.rest, factors[name].dense()) < 1e-6


def test_another_texts_lookups_are_the_rest(tokenizer: PreTrainedTokenizerFast) -> None:
    """T5's shared matrix is looked up by encoder and decoder: here the decoder has 5 places."""
    model, batch = make_model("t5-lm", tokenizer), batch_of(tokenizer)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]

    def losses(model: nn.Module, inputs: dict, targets: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids[:, :5]).logits
        return nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:6], reduction="none").sum(dim=1)

    layers = select_layers(model, "word-embeddings").layers
    with capture_layers(model, layers) as capture:
        factors = capture.factors(Batch(batch.rows, {"input_ids": ids}, batch.targets), losses)["shared"]
    projection = Projector(dim=4).of(layers)["shared"]
    found = place_vectors(factors, projection, ids.shape[1])
    assert found.vectors is not None and found.rest.any()
    encoder, decoder = sorted(factors.parts, key=lambda part: -part.right.shape[1])
    assert decoder.right.shape[1] == 5
    for part, sums in ((encoder, found.vectors.sum(dim=1)), (decoder, found.rest)):
        dense = torch.zeros(4, *layers[0].shape, dtype=torch.float64)
        for row in range(4):
            dense[row].index_add_(0, part.ids[row], part.right[row])
        near = projection.to(dense)
        assert relative_error(sums, (near.left.T @ dense @ near.right).flatten(1)) < 1e-5


def test_gradients_that_are_dense_already_have_no_places(tokenizer: PreTrainedTokenizerFast) -> None:
    """Adam's step is not a sum over places."""
    name = "bert.encoder.layer.0.output.dense"
    model, layers, factors, width = captured("bert", tokenizer, name)
    states = {
        n: AdamState(torch.zeros_like(p), torch.ones_like(p), None, 3.0, (0.9, 0.999), 1e-8)
        for n, p in model.named_parameters()
    }
    (stepped,) = adam_steps(layers, states)[name].pieces(factors[name])
    found = place_vectors(stepped, None, width)
    assert found.vectors is None and relative_error(found.rest, stepped.dense()) < 1e-6
