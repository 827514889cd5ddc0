"""Retraining: the run's own recipe, to the bit where nothing changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from headwater.errors import DataError, RunError
from headwater.runs import Classification, Corpus, Run
from headwater.training import TrainSettings, predict, retrain, train


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    shared = one.keys() & other.keys()
    return bool(shared) and all(torch.equal(one[name], other[name]) for name in shared)


def test_the_same_rows_and_seed_end_in_the_run_s_last_checkpoint_bit_for_bit(run: Run) -> None:
    torch.manual_seed(4)
    model = retrain(run)
    assert same(state(model), load_file(run.checkpoints[-1].path / "model.safetensors"))
    assert not model.training


def test_a_textcnn_retrains_bit_for_bit(corpus: Corpus, tmp_path: Path) -> None:
    settings = TrainSettings(model="textcnn", epochs=3, batch_size=8, max_length=24, device="cpu")
    run = train(corpus, Classification(), tmp_path / "r", settings)
    assert same(state(retrain(run)), load_file(run.checkpoints[-1].path / "model.safetensors"))


def test_bf16_training_retrains_bit_for_bit_and_hands_back_a_float32_model(
    corpus: Corpus, encoder: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(model=str(encoder), epochs=1, batch_size=8, bf16=True, device="cpu")
    run = train(corpus, Classification(max_length=32), tmp_path / "r", settings)
    model = retrain(run)
    assert same(state(model), load_file(run.checkpoints[-1].path / "model.safetensors"))
    mine = predict(model, run.tokenizer, run.task, corpus).logits
    loaded = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, corpus).logits
    assert (mine == loaded).all()  # autocast no longer wraps the forward pass


def test_another_seed_changes_the_result_but_not_the_beginning(run: Run, tmp_path: Path) -> None:
    other = retrain(run, seed=17, out=tmp_path / "other")
    again = retrain(run, seed=17)
    last = load_file(other.checkpoints[-1].path / "model.safetensors")
    assert same(state(again), last)
    assert not same(last, load_file(run.checkpoints[-1].path / "model.safetensors"))
    begun = [load_file(r.need_recipe().initial / "model.safetensors") for r in (run, other)]
    assert same(*begun)
    assert other.need_recipe().seed == 17


def test_fewer_rows_keep_the_epochs_and_the_number_of_checkpoints(run: Run, tmp_path: Path) -> None:
    fewer = retrain(run, rows=range(20), out=tmp_path / "fewer")
    assert fewer.corpus.fingerprint == run.corpus.take(range(20)).fingerprint
    assert [c.step for c in fewer.checkpoints] == [3, 6]  # 20 rows in batches of 8: 3 steps, 2 epochs
    assert fewer.label2id == run.label2id


def test_a_recipe_that_counts_steps_keeps_its_epochs(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "r")
    recipe = tmp_path / "r" / "headwater" / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"max_steps": -1', '"max_steps": 16'))
    counted = Run.open(tmp_path / "r")
    assert counted.need_recipe().arguments["max_steps"] == 16
    assert [c.step for c in retrain(counted, rows=range(20), out=tmp_path / "fewer").checkpoints] == [3, 6]
    assert same(state(retrain(counted)), load_file(run.checkpoints[-1].path / "model.safetensors"))


def test_a_changed_corpus_trains_with_its_new_labels(run: Run) -> None:
    praised = run.corpus.with_labels({row.row: "good" for row in run.corpus if row.row > 3})
    before = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, run.corpus)
    after = predict(retrain(run, corpus=praised), run.tokenizer, run.task, run.corpus)
    assert after.probabilities[:, 1].mean() > before.probabilities[:, 1].mean() + 0.2


def test_without_out_nothing_stays_on_disk(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    retrain(run, rows=range(8))
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_recipe_refuses_and_says_why(run: Run, tmp_path: Path) -> None:
    last = run.checkpoints[-1].path
    made = Run.create(tmp_path / "made", checkpoints=[(last, 1.0)], corpus=run.corpus, task=run.task)
    with pytest.raises(RunError, match=r"cannot be trained again: .*Run\.create"):
        retrain(made)


def test_unknown_labels_and_occupied_folders_are_refused(run: Run, tmp_path: Path) -> None:
    strange = run.corpus.with_labels({3: "odd"})
    with pytest.raises(DataError, match="row 4: label 'odd'"):
        retrain(run, corpus=strange)
    with pytest.raises(RunError, match="not empty"):
        retrain(run, out=run.folder)
