"""LESS and TrackStar of a run that a real Trainer trained: torch's own Adam and dense autograd say what they are."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from headwater.errors import StoreError
from headwater.gradients.layers import Projector

ROWS = builders.rows(16)
QUERIES, LABELS = ["the heron admires warm bread", "the baker hates long winters ."], ["good", "bad"]
EXACT = Projector(exact_below=1 << 30)
LAYERS = ("bert.encoder.layer.0.attention.self.query", "bert.encoder.layer.1.attention.self.query")
PATTERN = "*.query"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hw.Run:
    folder = tmp_path_factory.mktemp("adam") / "run"
    task = hw.Classification(max_length=32)
    builders.train_plainly(folder, ROWS, callbacks=[hw.Recorder(folder, corpus=hw.Corpus.read(ROWS), task=task)])
    return hw.Run.open(folder)


def _gradients(
    checkpoint: hw.Checkpoint, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], labels: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Of each parameter of LAYERS: [texts, *shape], float64."""
    model = checkpoint.load().double().eval()
    chosen = {name: value for name, value in model.named_parameters() if name.rpartition(".")[0] in LAYERS}
    found = []
    for text, label in zip(texts, labels, strict=True):
        logits = model(**tokenizer(text, return_tensors="pt")).logits
        loss = cross_entropy(logits, torch.tensor([builders.LABEL2ID[label]]))
        found.append(torch.autograd.grad(loss, list(chosen.values())))
    return {name: torch.stack([each[at] for each in found]) for at, name in enumerate(chosen)}


def _states(checkpoint: hw.Checkpoint) -> dict[str, dict[str, torch.Tensor]]:
    """Adam's state by parameter name; Trainer puts decayed parameters first."""
    names = [name for name, _ in checkpoint.load().named_parameters()]
    decayed = [name for name in names if not ("bias" in name or "LayerNorm" in name)]
    names = decayed + [name for name in names if name not in decayed]
    state = torch.load(checkpoint.path / "optimizer.pt", weights_only=True)["state"]
    return {name: state[number] for number, name in enumerate(names) if number in state}


def _step(gradient: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """What torch's Adam subtracts at rate 1."""
    parameter = torch.nn.Parameter(torch.zeros_like(gradient))
    adam = torch.optim.Adam([parameter], lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    adam.state[parameter] = {
        "step": state["step"].clone(),
        "exp_avg": state["exp_avg"].double().clone(),
        "exp_avg_sq": state["exp_avg_sq"].double().clone(),
    }
    parameter.grad = gradient.clone()
    adam.step()
    return -parameter.detach()


def _flat(parts: dict[str, torch.Tensor]) -> np.ndarray:
    """Layer beside layer, [texts, numbers]."""
    return torch.cat([each.flatten(1) for each in parts.values()], dim=1).numpy()


def _both(run: hw.Run, tokenizer: PreTrainedTokenizerFast, checkpoint: hw.Checkpoint):
    texts, labels = [row["text"] for row in ROWS], [row["label"] for row in ROWS]
    return _gradients(checkpoint, tokenizer, texts, labels), _gradients(checkpoint, tokenizer, QUERIES, LABELS)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_less_is_the_cosine_with_the_step_that_torchs_adam_takes(
    run: hw.Run, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> None:
    truth = np.zeros((len(QUERIES), len(ROWS)))
    for checkpoint in run.checkpoints:
        rows, queries = _both(run, tokenizer, checkpoint)
        states = _states(checkpoint)
        steps = {name: torch.stack([_step(gradient, states[name]) for gradient in each]) for name, each in rows.items()}
        truth += checkpoint.weight * _unit(_flat(queries)) @ _unit(_flat(steps)).T
    folder = tmp_path_factory.mktemp("less")
    index = hw.Index.build(run, folder, method="less", layers=PATTERN, projector=EXACT, dtype="float32")
    ours = index.scores(QUERIES, LABELS, method="less")
    assert np.abs(ours - truth).max() <= 1e-4 * np.abs(truth).max()
    best = index.query(QUERIES, LABELS, k=1, method="less")[0].proponents[0]
    assert best.example.row == truth[0].argmax() and best.score == pytest.approx(truth[0].max(), rel=1e-4)


def test_trackstar_whitens_gradients_over_adams_second_moments(
    run: hw.Run, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mix, damping, total = 0.4, 0.1, sum(checkpoint.weight for checkpoint in run.checkpoints)
    truth = np.zeros((len(QUERIES), len(ROWS)))
    for checkpoint in run.checkpoints:
        states = _states(checkpoint)
        whitened: list[list[np.ndarray]] = [[], []]
        both = _both(run, tokenizer, checkpoint)
        for layer in LAYERS:
            sides = []
            for side in both:
                divided = {}
                for name in (f"{layer}.weight", f"{layer}.bias"):
                    second = states[name]["exp_avg_sq"].double() / (1 - 0.999 ** float(states[name]["step"]))
                    divided[name] = side[name] / (second.sqrt() + 1e-8)
                sides.append(_flat(divided))
            train, asked = (each.T @ each / len(each) for each in sides)
            matrix = mix * asked + (1 - mix) * train
            values, vectors = np.linalg.eigh(matrix + damping * np.trace(matrix) / len(matrix) * np.eye(len(matrix)))
            for number, each in enumerate(sides):
                whitened[number].append(each @ vectors / np.sqrt(values))
        x, q = (_unit(np.concatenate(each, axis=1)) for each in whitened)
        truth += checkpoint.weight / total * q @ x.T
    folder = tmp_path_factory.mktemp("trackstar")
    index = hw.Index.build(run, folder, method="trackstar", layers=PATTERN, projector=EXACT, dtype="float32")
    ours = index.scores(QUERIES, LABELS, method="trackstar", mix=mix, damping=damping)
    assert np.abs(ours - truth).max() <= 1e-4 * np.abs(truth).max()


def test_each_scale_of_gradients_is_a_set_of_its_own(run: hw.Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    index = hw.Index.build(run, tmp_path_factory.mktemp("plain"), method="tracin", layers=PATTERN)
    assert np.isfinite(index.scores(QUERIES, LABELS, method="trackstar", second_moments=False)).all()
    for method in ("less", "trackstar"):
        with pytest.raises(StoreError, match=f"--method {method}"):
            index.scores(QUERIES, LABELS, method=method)
