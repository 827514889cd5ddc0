"""Adam's step on one example's gradient is what torch's own Adam would do with it."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from gradients.layers.conftest import batch_of, losses_of, make_model, one_by_one
from gradients.layers.test_moments import decay_groups, trained
from headwater.errors import RunError, UsageError
from headwater.gradients.layers import Projector, adam_states, adam_steps, layer_gradients, select_layers
from headwater.gradients.layers.factors import Dense, LayerFactors, Plain
from headwater.gradients.layers.projection import project

RATE = 1e-3


def names_of(groups: list[list[tuple[str, nn.Parameter]]]) -> list[list[str]]:
    return [[name for name, _ in group] for group in groups]


def real_steps(model: nn.Module, optimizer: torch.optim.Optimizer, gradients: dict, rows: int) -> dict:
    """For each example: (parameters before - after one more step on its gradient) / lr, float64."""
    moved: dict[str, list[torch.Tensor]] = {name: [] for name in gradients}
    for row in range(rows):
        twin = copy.deepcopy(model)
        own = dict(twin.named_parameters())
        pairs = [[own[name] for name in group] for group in names_of(decay_groups(model))]
        again = type(optimizer)([{"params": group} for group in pairs], lr=RATE)
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        before = {name: parameter.detach().clone() for name, parameter in own.items()}
        for name, parameter in own.items():
            parameter.grad = gradients[name][row].clone()
        again.step()
        for name, parameter in own.items():
            moved[name].append((before[name] - parameter.detach()) / RATE)
    return {name: torch.stack(values) for name, values in moved.items()}


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"betas": (0.8, 0.95), "eps": 1e-3}])
@pytest.mark.parametrize(
    ("kind", "make"), [("bert", torch.optim.AdamW), ("gpt2", torch.optim.Adam), ("llama-lm", torch.optim.AdamW)]
)
def test_it_is_one_more_step_of_torchs_adam(kind, make, options, tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    """Biases, tied weights (two calls of one matrix, added up before the step), lookups (m moves every row)."""
    model, losses, batch = make_model(kind, tokenizer), losses_of(kind), batch_of(tokenizer)
    groups = decay_groups(model)
    optimizer = trained(model, tmp_path, groups, make=make, weight_decay=0.0, **options)
    dense = one_by_one(model, batch, losses)
    truth = real_steps(model, optimizer, dense, len(batch.rows))
    layers = select_layers(model, "all", tied="joint").layers
    steps = adam_steps(layers, adam_states(tmp_path, names_of(groups)))
    (exact,) = layer_gradients(model, [batch], losses, layers, updates=steps)
    projector = Projector(dim=4)
    (projected,) = layer_gradients(model, [batch], losses, layers, projector, updates=steps)
    for layer in layers:
        expected = torch.cat([truth[name].flatten(1) for name in layer.parameters], dim=1)
        assert float((exact.gradients[layer.name] - expected).abs().max()) < 1e-5 * float(expected.abs().max()), layer
        part = Plain(expected[:, None]) if layer.matrix is None else Dense(layer.unflatten(expected))
        ours = project(LayerFactors(layer, 4, (part,)), projector.of(layers)[layer.name])
        assert float((projected.gradients[layer.name] - ours).abs().max()) < 1e-5 * float(ours.abs().max()), layer


def test_pieces_and_batch_mates_change_nothing(tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch) -> None:
    model = make_model("bert", tokenizer)
    groups = decay_groups(model)
    trained(model, tmp_path, groups)
    layers = select_layers(model, "bert.encoder.layer.0,word-embeddings").layers
    steps = adam_steps(layers, adam_states(tmp_path, names_of(groups)))
    batch = batch_of(tokenizer)
    (whole,) = layer_gradients(model, [batch], losses_of("bert"), layers, Projector(dim=4), updates=steps)
    monkeypatch.setattr(LayerFactors.chunks, "__defaults__", (1,))
    (cut,) = layer_gradients(model, [batch], losses_of("bert"), layers, Projector(dim=4), updates=steps)
    for layer in layers:
        assert torch.allclose(whole.gradients[layer.name], cut.gradients[layer.name], rtol=1e-5, atol=1e-6)


def test_errors_say_what_is_wrong(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = make_model("bert", tokenizer, double=False)
    groups = decay_groups(model)
    trained(model, tmp_path, groups)
    states = adam_states(tmp_path, names_of(groups))
    layers = select_layers(model, "last").layers
    with pytest.raises(RunError, match="keeps no second moment of it"):
        adam_steps(layers, {"classifier.weight": states["classifier.weight"]})
    saved = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    saved["param_groups"][1]["betas"] = (0.5, 0.5)
    torch.save(saved, tmp_path / "optimizer.pt")
    with pytest.raises(RunError, match=r"classifier.weight and classifier.bias were trained by different steps"):
        adam_steps(layers, adam_states(tmp_path, names_of(groups)))
    with pytest.raises(UsageError, match="classifier has no denominators or steps"):
        list(layer_gradients(model, [batch_of(tokenizer)], losses_of("bert"), layers, updates={}))
    trained(model, tmp_path, groups, make=torch.optim.RMSprop)
    with pytest.raises(RunError, match="of Adam's kind; its optimizer keeps square_avg, step"):
        adam_states(tmp_path, names_of(groups))
