"""Patches: targets are mended while the old run stays; LiSSA is the inverse Hessian; a patch is a run of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import builders
import headwater as hw
from cli.conftest import headwater
from headwater.errors import DataError, HeadwaterError, RunError, UsageError
from headwater.models.load import load_model
from headwater.remedies.lissa import hessian_times, solve
from headwater.remedies.patch import CHECKPOINT, Patching, patch, ranked, tail
from headwater.training import TrainSettings, predict, train

FLIPPED = range(0, 60, 4)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> hw.Index:
    """A run that a quarter of its rows taught the wrong label."""
    rows = builders.rows(200)
    for number in FLIPPED:
        rows[number]["label"] = "bad" if rows[number]["label"] == "good" else "good"
    run = train(
        hw.Corpus.read(rows[:120], name="train"),
        hw.Classification(max_length=16),
        tmp_path_factory.mktemp("patch") / "run",
        TrainSettings(model="textcnn", epochs=4, max_length=16, vocabulary=300, learning_rate=2e-3),
        eval_corpus=hw.Corpus.read(rows[120:], name="eval"),
        show=False,
    )
    hw.Index.build(run, show=False)
    hw.Index.build(run, method="representation-cosine", show=False)
    return hw.Index.open(run.folder / "index")


@pytest.fixture(scope="module")
def wrong(index: hw.Index) -> hw.Corpus:
    """The held-out rows nearest to the border: wrong ones, or those told with least certainty as the other label."""
    run, held = index.run, index.run.eval_corpus
    found = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, held, show=False)
    hardest = np.argsort(found.true_probabilities)[:2]
    return held.take(sorted(hardest.tolist()))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_patch_raises_the_targets_and_leaves_the_old_run_as_it_was(
    index: hw.Index, wrong: hw.Corpus, tmp_path: Path
) -> None:
    before = contents(index.run.folder)
    how = Patching(steps=30, learning_rate=1e-3)
    told = patch(index, wrong, index.run.eval_corpus, how, out=tmp_path / "patched", show=False)
    assert all(target.probability_after > target.probability_before for target in told.targets)
    assert all(target.after == target.label for target in told.targets) and told.steps <= 30
    assert told.others is not None and told.others.rows == len(index.run.eval_corpus) - len(wrong)
    assert told.control is not None
    assert contents(index.run.folder) == before
    child = hw.Run.open(tmp_path / "patched")
    assert child.corpus.fingerprint == index.run.corpus.fingerprint
    said = predict(child.checkpoints[-1].load(), child.tokenizer, child.task, wrong, show=False)
    assert said.true_probabilities == pytest.approx([target.probability_after for target in told.targets], abs=1e-6)
    saved = json.loads((tmp_path / "patched" / "patch.json").read_text())
    assert "loses this patch" in saved["notes"][0] and saved["rows"] == list(told.rows)
    assert len(hw.Index.build(child, show=False)) == 120


def test_one_step_is_adams_on_the_rows_chosen(index: hw.Index, wrong: hw.Corpus, tmp_path: Path) -> None:
    how = Patching(rows=3, replay=0, steps=1, learning_rate=1e-3)
    told = patch(index, wrong, None, how, out=tmp_path / "one", control=False, show=False)
    run = index.run
    model = load_model(run.checkpoints[-1].path, run.task.auto)
    order, _ = ranked(index, model, wrong, how, show=False)
    assert told.rows == tuple(order[:3])
    batch = run.task.collate(run.task.encode(run.tokenizer, [run.corpus[row] for row in order[:3]]), run.tokenizer)
    targets = torch.tensor([run.label2id[str(run.corpus[row].label)] for row in order[:3]])
    nn.functional.cross_entropy(model(**batch).logits, targets).backward()
    saved = dict(load_model(tmp_path / "one" / CHECKPOINT, run.task.auto).named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        by_hand = parameter - 1e-3 * parameter.grad / (parameter.grad.abs() + 1e-8)  # Adam's first step
        torch.testing.assert_close(saved[name], by_hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("by", ["index", "representation", "lissa", "random"])
def test_every_way_to_choose_rows_gives_the_same_rows_again(index: hw.Index, wrong: hw.Corpus, by: str) -> None:
    how = Patching(by=by, candidates=20, steps=2)  # type: ignore[arg-type]
    one, two = (patch(index, wrong, None, how, control=False, show=False) for _ in range(2))
    assert replace(one, seconds=0.0) == replace(two, seconds=0.0)
    assert 0 < len(one.rows) <= 20
    if by == "representation":
        labels = {str(row.label) for row in wrong}
        assert {str(index.corpus[row].label) for row in one.rows} <= labels


def test_lissa_is_the_inverse_of_a_damped_hessian() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 5, dtype=torch.float64), torch.randint(0, 2, (64,)).double()
    weights = nn.Parameter(0.1 * torch.randn(5, dtype=torch.float64))

    def loss(_: int) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(x @ weights, y) + 0.05 * (weights**2).sum()

    vector = torch.randn(5, dtype=torch.float64)
    p = torch.sigmoid(x @ weights).detach()
    hessian = (x.T * (p * (1 - p))) @ x / len(x) + 0.1 * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(hessian_times(loss(0), [weights], [vector])[0], hessian @ vector)
    found = solve(loss, [weights], [vector], steps=3000, damping=1e-3)
    exact = torch.linalg.solve(hessian + 1e-3 * found.scale * torch.eye(5, dtype=torch.float64), vector)
    torch.testing.assert_close(found.vector[0], exact, rtol=1e-5, atol=1e-6)
    with pytest.raises(HeadwaterError, match="diverged"):
        solve(loss, [weights], [vector], steps=5000, scale=1e-3)


def test_the_tail_is_the_last_quarter_and_the_head() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=8, num_attention_heads=2, intermediate_size=8)
    model = BertForSequenceClassification(config)
    names = {name for name, parameter in model.named_parameters() if any(parameter is each for each in tail(model))}
    layers = {int(name.split(".")[3]) for name in names if ".layer." in name}
    assert layers == {6, 7} and "classifier.weight" in names and not any("embeddings" in name for name in names)


def test_what_cannot_be_patched_is_refused(index: hw.Index, wrong: hw.Corpus, tmp_path: Path) -> None:
    for field in ("steps", "rows", "candidates"):
        with pytest.raises(UsageError, match=field):
            Patching(**{field: 0})
    with pytest.raises(UsageError, match="replay"):
        Patching(replay=-1)
    with pytest.raises(UsageError, match="learning_rate"):
        Patching(learning_rate=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(RunError, match="is not empty"):
        patch(index, wrong, None, out=tmp_path / "full", show=False)
    unlabelled = hw.Corpus.read([{"text": "the heron"}], hw.Columns(text="text", label=None), name="asked")
    with pytest.raises(DataError, match="label"):
        patch(index, unlabelled, None, show=False)


def test_the_command_patches_a_text_and_says_what_else_changed(index: hw.Index, tmp_path: Path) -> None:
    run = index.run.folder
    held = index.run.eval_corpus[0]
    asked = ("patch", run, "--text", held.text, "--label", held.label, "--steps", 2)
    told = headwater(*asked, "--out", tmp_path / "child", "--json")
    assert told.code == 0, told.stderr
    answer = json.loads(told.stdout)
    assert answer["targets"][0]["text"] == held.text and (tmp_path / "child" / CHECKPOINT).is_dir()
    shown = headwater("patch", run, "--row", 0, "--row", 1, "--steps", 1)
    assert shown.code == 0 and "the same steps on random rows" in shown.stdout and "next training" in shown.stdout
    for arguments, said in (
        ((), "which answers?"),
        (("--text", "x"), "--text and --label go together"),
        (("--row", 9999), "there is no row 9,999"),
        (("--row", 1, "--wrong", 2), "one of them"),
    ):
        refused = headwater("patch", run, *arguments)
        assert refused.code != 0 and said in refused.stderr, refused.stderr
