"""The projection: its Kronecker form, no bias over seeds, the same matrices whatever else is projected."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from gradients.layers.conftest import batch_of, losses_of, make_model
from headwater.errors import UsageError
from headwater.gradients.layers import Projector, capture_layers, layer_gradients, project, select_layers
from oracle import relative_error


def factors_of(kind: str, tokenizer: PreTrainedTokenizerFast, pattern: str = "all", tied: str = "joint"):
    model = make_model(kind, tokenizer)
    layers = select_layers(model, pattern, tied=tied).layers
    with capture_layers(model, layers) as capture:
        return layers, capture.factors(batch_of(tokenizer), losses_of(kind))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama-lm", "bert-lm", "textcnn", "albert", "t5-lm"])
@pytest.mark.parametrize("random", ["rademacher", "gaussian"])
def test_it_equals_its_kronecker_form(kind: str, random: str, tokenizer: PreTrainedTokenizerFast) -> None:
    layers, found = factors_of(kind, tokenizer)
    projections = Projector(dim=5, seed=3, kind=random).of(layers)
    projected = 0
    for layer in layers:
        projection, dense = projections[layer.name], found[layer.name].dense()
        ours = project(found[layer.name], projection)
        assert ours.shape == (4, projection.size)
        if projection.exact:
            assert layer.size <= 25 and torch.equal(ours, dense)
            continue
        projected += 1
        if layer.matrix is None:
            assert relative_error(ours, dense @ projection.vector.double()) < 1e-9
            continue
        outputs, inputs = layer.matrix
        left = torch.eye(outputs).double() if projection.left is None else projection.left.double()
        right = torch.eye(inputs + layer.bias).double() if projection.right is None else projection.right.double()
        weight = dense[:, : outputs * inputs]
        shape = (inputs, outputs) if layer.transposed else (outputs, inputs)
        matrix = weight.reshape(-1, *shape).mT if layer.transposed else weight.reshape(-1, *shape)
        if layer.bias:
            matrix = torch.cat([matrix, dense[:, outputs * inputs :, None]], dim=2)
        assert relative_error(ours, matrix.flatten(1) @ torch.kron(left, right)) < 1e-9, layer.name
    assert projected > 3


@pytest.mark.parametrize("random", ["rademacher", "gaussian"])
@pytest.mark.parametrize("name", ["bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.0.output.LayerNorm"])
def test_dot_products_are_unbiased_over_seeds(name: str, random: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """The mean of 600 seeds lies within five of its own standard errors; single seeds lie far off."""
    layers, found = factors_of("bert", tokenizer, name)
    dense = found[name].dense()
    truth = dense @ dense.T
    seen = []
    for seed in range(600):
        projections = Projector(dim=4, seed=seed, kind=random, exact_below=0).of(layers)
        rows = project(found[name], projections[name])
        seen.append(rows @ rows.T)
    sample = torch.stack(seen)
    error = sample.std(dim=0) / len(seen) ** 0.5
    assert bool(((sample.mean(dim=0) - truth).abs() < 5 * error).all())
    assert float((sample[0] - truth).abs().max()) > 5 * float(error.max())


def test_the_two_signs_of_randomness_have_unit_second_moments(tokenizer: PreTrainedTokenizerFast) -> None:
    layers, _ = factors_of("bert", tokenizer, "bert.embeddings.word_embeddings")
    for kind in ("rademacher", "gaussian"):
        side = Projector(dim=8, kind=kind).of(layers)["bert.embeddings.word_embeddings"].left
        assert side.shape[1] == 8 and abs(float(side.pow(2).sum(dim=1).mean()) - 1) < 0.1
        assert abs(float(side.mean())) < 0.05


def test_a_layers_matrices_depend_on_seed_and_name_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("bert", tokenizer)
    layers = select_layers(model, "all").layers
    name = "bert.encoder.layer.1.attention.self.key"
    whole, alone = Projector(dim=4).of(layers[::-1])[name], Projector(dim=4).of(select_layers(model, name).layers)[name]
    assert torch.equal(whole.left, alone.left) and torch.equal(whole.right, alone.right)
    other = Projector(dim=4, seed=1).of(layers)[name]
    query = Projector(dim=4).of(layers)[name.replace("key", "query")]
    for unlike in (other.left, query.left, whole.right[: len(whole.left)]):
        assert not torch.equal(whole.left, unlike)


def test_small_layers_and_short_sides_stay_as_they_are(tokenizer: PreTrainedTokenizerFast) -> None:
    layers, found = factors_of("bert", tokenizer)
    projections = Projector(dim=6).of(layers)
    assert projections["classifier"].exact  # 2 x 17 entries, at most 6 x 6
    tight = Projector(dim=6, exact_below=0).of(layers)["classifier"]
    assert tight.left is None and tight.right.shape == (17, 6) and tight.size == 12
    wide = Projector(dim=64, exact_below=0).of(layers)["classifier"]
    assert wide.exact and torch.equal(project(found["classifier"], wide), found["classifier"].dense())


def test_a_projector_comes_back_from_its_json(tokenizer: PreTrainedTokenizerFast) -> None:
    projector = Projector(dim=7, seed=2, kind="gaussian", exact_below=9)
    assert Projector(**projector.to_json()) == projector
    assert projector.to_json() == {"dim": 7, "seed": 2, "kind": "gaussian", "exact_below": 9}
    for wrong in ({"dim": 0}, {"kind": "sparse"}):
        with pytest.raises(UsageError):
            Projector(**wrong)


def test_streamed_rows_are_the_projected_factors_in_float32(tokenizer: PreTrainedTokenizerFast) -> None:
    layers, found = factors_of("albert", tokenizer)
    projector = Projector(dim=5)
    (rows,) = layer_gradients(
        make_model("albert", tokenizer), [batch_of(tokenizer, first=7)], losses_of("albert"), layers, projector
    )
    assert rows.rows.tolist() == [7, 8, 9, 10]
    for layer in layers:
        ours = rows.gradients[layer.name]
        assert ours.dtype == torch.float32
        assert relative_error(ours.double(), project(found[layer.name], projector.of(layers)[layer.name])) < 1e-5
