"""Scores with Adam's second moments, of a run that a real Trainer trained, against dense autograd and optimizer.pt."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from headwater.errors import RunError, UsageError
from headwater.gradients.layers import Projector
from oracle import dense_gradients

ROWS = builders.rows(16)
CORPUS = hw.Corpus.read(ROWS)
TASK = hw.Classification(max_length=32)
QUERIES, LABELS = ["the heron admires warm bread", "the baker hates long winters ."], ["good", "bad"]
EXACT = Projector(exact_below=1 << 30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> hw.Run:
    folder = tmp_path_factory.mktemp("adam") / "run"
    builders.train_plainly(folder, ROWS, callbacks=[hw.Recorder(folder, corpus=CORPUS, task=TASK)])
    return hw.Run.open(folder)


def _moments(run: hw.Run) -> list[dict[str, torch.Tensor]]:
    """sqrt of Adam's corrected second moment by parameter name; Trainer puts decayed parameters first."""
    found = []
    for checkpoint in run.checkpoints:
        model = checkpoint.load()
        decayed = [n for n, _ in model.named_parameters() if not ("bias" in n or "LayerNorm" in n)]
        names = decayed + [n for n, _ in model.named_parameters() if n not in decayed]
        state = torch.load(checkpoint.path / "optimizer.pt", weights_only=True)["state"]
        found.append(
            {
                name: (state[number]["exp_avg_sq"] / (1 - 0.999 ** float(state[number]["step"]))).sqrt().double()
                for number, name in enumerate(names)
                if number in state
            }
        )
    return found


def test_tracin_we_with_second_moments_divides_by_adams_denominators(
    trained: hw.Run, tokenizer: PreTrainedTokenizerFast
) -> None:
    targets = [builders.LABEL2ID[row["label"]] for row in ROWS]
    asked = [builders.LABEL2ID[label] for label in LABELS]
    truth = np.zeros((2, len(ROWS)))
    for checkpoint, moments in zip(trained.checkpoints, _moments(trained), strict=True):
        model = checkpoint.load()
        rows = dense_gradients(model, tokenizer, [row["text"] for row in ROWS], targets, double=True)
        queries = dense_gradients(model, tokenizer, QUERIES, asked, double=True)
        divided = queries / (moments["bert.embeddings.word_embeddings.weight"] + 1e-8)
        truth += checkpoint.weight * torch.einsum("qvd,nvd->qn", divided, rows).numpy()
    index = hw.Index.build(trained, dtype="float32")
    ours = index.scores(QUERIES, LABELS, second_moments=True)
    assert np.abs(ours - truth).max() < 1e-4 * np.abs(truth).max()
    best = index.query(QUERIES, LABELS, k=2, second_moments=True)[0].proponents[0]
    assert (
        sum(pair.score for pair in best.words) == pytest.approx(best.score) == pytest.approx(truth[0].max(), rel=1e-4)
    )


def _gradients(run: hw.Run, tokenizer: PreTrainedTokenizerFast) -> list[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """By checkpoint and parameter: gradients of the queries and of the rows, flat, float64."""
    everything = [(row["text"], row["label"]) for row in ROWS]
    found = []
    for checkpoint in run.checkpoints:
        model = checkpoint.load().double().eval()
        sides = []
        for texts in (list(zip(QUERIES, LABELS, strict=True)), everything):
            per_text = []
            for text, label in texts:
                loss = cross_entropy(
                    model(**tokenizer(text, return_tensors="pt")).logits, torch.tensor([builders.LABEL2ID[label]])
                )
                gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
                names = [name for name, _ in model.named_parameters()]
                per_text.append({n: g.flatten() for n, g in zip(names, gradients, strict=True) if g is not None})
            sides.append(per_text)
        found.append(
            {
                name: tuple(torch.stack([each[name] for each in side]) for side in sides)  # type: ignore[misc]
                for name in sides[0][0]
            }
        )
    return found


def test_tracin_with_second_moments_needs_no_other_set(trained: hw.Run, tokenizer: PreTrainedTokenizerFast) -> None:
    truth = np.zeros((2, len(ROWS)))
    moments = _moments(trained)
    for checkpoint, by, found in zip(trained.checkpoints, moments, _gradients(trained, tokenizer), strict=True):
        for name, (queries, rows) in found.items():
            if ".query." in name:
                divided = queries / (by[name].flatten() + 1e-8)
                truth += checkpoint.weight * (divided @ rows.T).numpy()
    index = hw.Index.build(trained, method="tracin", layers="*.query", projector=EXACT, dtype="float32")
    ours = index.scores(QUERIES, LABELS, method="tracin", second_moments=True)
    assert np.abs(ours - truth).max() < 1e-4 * np.abs(truth).max()


def test_an_optimizer_that_was_not_kept_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    builders.train_plainly(
        folder, ROWS, callbacks=[hw.Recorder(folder, corpus=CORPUS, task=TASK)], save_only_model=True
    )
    run = hw.Run.open(folder)
    index = hw.Index.build(run)
    with pytest.raises(RunError, match=r"optimizer\.pt.*save_only_model=False"):
        index.scores(QUERIES, LABELS, second_moments=True)


def test_a_run_that_nobody_recorded_has_no_names_for_moments(index: hw.Index) -> None:
    with pytest.raises(UsageError, match="Recorder"):
        index.scores(QUERIES, LABELS, second_moments=True)


def test_moments_and_stored_norms_exclude_each_other(index: hw.Index) -> None:
    with pytest.raises(UsageError, match="normalize"):
        index.scores(QUERIES, LABELS, second_moments=True, normalize="train")
