"""Second moments are Adam's own, and what they divide is the dense gradient entry by entry."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

import builders
from gradients.layers.conftest import batch_of, losses_of, make_model, one_by_one
from headwater.errors import RunError, UsageError
from headwater.gradients.layers import (
    Projector,
    capture_layers,
    denominators,
    layer_gradients,
    project,
    second_moments,
    select_layers,
)
from headwater.gradients.layers.factors import Dense, LayerFactors
from headwater.gradients.layers.moments import denominator
from oracle import relative_error


def trained(model: nn.Module, folder: Path, groups, steps: int = 3, make=torch.optim.AdamW, **options):
    """Some real steps on random gradients, saved as Trainer saves."""
    optimizer = make([{"params": [p for _, p in group]} for group in groups], lr=1e-3, **options)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for group in groups:
            for _, parameter in group:
                parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizer.step()
    optimizer.zero_grad()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return optimizer


def decay_groups(model: nn.Module) -> list[list[tuple[str, nn.Parameter]]]:
    """Matrices, then vectors: not the order of named_parameters."""
    named = list(model.named_parameters())
    return [[pair for pair in named if pair[1].ndim > 1], [pair for pair in named if pair[1].ndim == 1]]


@pytest.mark.parametrize("amsgrad", [False, True])
def test_they_are_adams_own_after_real_steps(amsgrad: bool, tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    model = make_model("bert", tokenizer, double=False)
    groups = decay_groups(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = trained(model, tmp_path, groups, steps=1, amsgrad=amsgrad, weight_decay=0.0)
    found = second_moments(tmp_path, [[name for name, _ in group] for group in groups])
    assert found.keys() == before.keys()
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        step = 1e-3 * (state["exp_avg"] / (1 - 0.9)) / (found[name].sqrt() + 1e-8)  # what Adam's first step was
        assert relative_error(before[name] - parameter.detach(), step) < 1e-3
    optimizer = trained(model, tmp_path, groups, steps=5, amsgrad=amsgrad)
    found = second_moments(tmp_path, [[name for name, _ in group] for group in groups])
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        kept = state["max_exp_avg_sq" if amsgrad else "exp_avg_sq"]
        assert torch.equal(found[name], kept / (1 - 0.999**5))


def test_names_are_those_that_recorder_writes(tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    """A real Trainer run with decay groups: moments have the shapes of the parameters that they are named after."""
    import headwater as hw
    from headwater.runs.rates import RateLog

    corpus = hw.Corpus.read(builders.rows(16))
    recorder = hw.Recorder(tmp_path, corpus=corpus, task=hw.Classification(max_length=32))
    trainer = builders.train_plainly(tmp_path, builders.rows(16), callbacks=[recorder], num_train_epochs=1)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    names = RateLog.read(tmp_path / "headwater" / "rates.json").parameters
    assert len(names) == 2
    found = second_moments(checkpoint, names)
    state = trainer.optimizer.state
    for name, parameter in trainer.model.named_parameters():
        own = state[parameter]
        assert torch.allclose(found[name], own["exp_avg_sq"] / (1 - 0.999 ** float(own["step"])))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama-lm", "bert-lm", "textcnn"])
def test_divided_gradients_are_dense_ones_over_root_moments(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model, losses, batch = make_model(kind, tokenizer), losses_of(kind), batch_of(tokenizer)
    layers = select_layers(model, "all", tied="joint").layers
    generator = torch.Generator().manual_seed(0)
    moments = {
        name: torch.rand(p.shape, generator=generator, dtype=p.dtype) + 0.01 for name, p in model.named_parameters()
    }
    by = denominators(layers, moments, epsilon=1e-3)
    (exact,) = layer_gradients(model, [batch], losses, layers, updates=by)
    projector = Projector(dim=4)
    (projected,) = layer_gradients(model, [batch], losses, layers, projector, updates=by)
    dense = one_by_one(model, batch, losses)
    for layer in layers:
        truth = torch.cat([(dense[n] / (moments[n].sqrt() + 1e-3)).flatten(1) for n in layer.parameters], dim=1)
        if not truth.any():
            continue
        assert float((exact.gradients[layer.name] - truth).abs().max()) < 1e-5 * max(1e-3, float(truth.abs().max()))
        form = truth if layer.matrix is None else layer.unflatten(truth)
        if layer.matrix is not None:
            ours = project(LayerFactors(layer, 4, (Dense(form),)), projector.of(layers)[layer.name])
            assert float((projected.gradients[layer.name] - ours).abs().max()) < 1e-5 * float(truth.abs().max())


def test_a_head_and_lookups_of_one_matrix_divide_alike(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("llama-lm", tokenizer)
    (layer,) = select_layers(model, "word-embeddings", tied="joint").layers
    assert layer.parameters == ("model.embed_tokens.weight",)
    with capture_layers(model, [layer]) as capture:
        factors = capture.factors(batch_of(tokenizer), losses_of("llama-lm"))[layer.name]
    assert len(factors.parts) == 2


def test_errors_say_what_is_wrong(tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    model = make_model("bert", tokenizer, double=False)
    groups = decay_groups(model)
    names = [[name for name, _ in group] for group in groups]
    with pytest.raises(RunError, match="no such file"):
        second_moments(tmp_path, names)
    trained(model, tmp_path, groups)
    with pytest.raises(RunError, match=r"groups hold \[.*\] parameters, but \[.*\] were recorded"):
        second_moments(tmp_path, [names[0][1:], names[1]])
    trained(model, tmp_path, groups, make=torch.optim.SGD, momentum=0.9)
    with pytest.raises(RunError, match=r"no second moment of Adam's kind; its optimizer keeps momentum_buffer"):
        second_moments(tmp_path, names)
    trained(model, tmp_path, groups, steps=0)
    with pytest.raises(RunError, match="no step was taken"):
        second_moments(tmp_path, names)
    torch.save({"state": {}, "param_groups": [], "spoiled": Path("x")}, tmp_path / "optimizer.pt")
    with pytest.raises(RunError, match="cannot be read as plain tensors"):
        second_moments(tmp_path, names)
    (tmp_path / "optimizer.pt").write_bytes(b"\0" * 100)
    with pytest.raises(RunError, match="cannot be read as plain tensors"):
        second_moments(tmp_path, names)
    layers = select_layers(model, "last").layers
    with pytest.raises(UsageError, match="classifier has no denominators"):
        list(layer_gradients(model, [batch_of(tokenizer)], losses_of("bert"), layers, updates={}))
    with pytest.raises(RunError, match="keeps no second moment of it"):
        denominators(layers, {"classifier.weight": torch.ones(2, 16)})
    with pytest.raises(RunError, match=r"have shape \(3, 16\), the layer \(2, 16\)"):
        denominators(layers, {"classifier.weight": torch.ones(3, 16), "classifier.bias": torch.ones(2)})


def test_what_training_did_not_move_counts_for_nothing() -> None:
    moments = torch.tensor([1.0, 4.0, 0.0, 1e-12, 1e-4])  # the fourth moved by rounding, the fifth by a hundredth
    found = denominator(moments, epsilon=0.5)
    assert torch.allclose(found, torch.tensor([1.5, 2.5, torch.inf, torch.inf, 0.51]))
    assert bool(torch.isinf(denominator(torch.zeros(3))).all())


def test_the_bias_of_keys_which_no_softmax_sees_is_left_out(tmp_path: Path) -> None:
    """Its gradient is 0 but for rounding; divided by its own sqrt(v) it would be as large as any other."""
    folder = tmp_path / "run"
    model = builders.tiny_model()
    builders.train_plainly(folder, builders.rows(16), model=model)
    checkpoint = sorted(folder.glob("checkpoint-*"))[-1]
    decayed = [n for n, _ in model.named_parameters() if not ("bias" in n or "LayerNorm" in n)]
    names = [decayed, [n for n, _ in model.named_parameters() if n not in decayed]]
    (layer,) = select_layers(model, "bert.encoder.layer.0.attention.self.key").layers
    values = denominators([layer], second_moments(checkpoint, names))[layer.name].values
    assert bool(torch.isinf(values[:, -1]).all()) and bool(torch.isfinite(values[:, :-1]).all())
