"""Trainings that fail: one line that says why, and a folder that holds a usable run or nothing."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest
import torch

from builders import rows
from headwater.errors import DataError, HeadwaterError, RunError
from headwater.runs import Classification, Columns, Corpus, Run
from headwater.training import TrainSettings, retrain, train
from headwater.training.guard import guarded


def test_a_training_that_diverges_is_an_error_and_leaves_nothing(corpus: Corpus, encoder: Path, tmp_path: Path) -> None:
    wild = TrainSettings(
        model=str(encoder), epochs=3, batch_size=8, learning_rate=1e38, optimizer="sgd", warmup=0.0, device="cpu"
    )
    with pytest.raises(RunError, match=r"diverged: .* is not finite\. Lower the learning rate"):
        train(corpus, Classification(max_length=32), tmp_path / "r", wild)
    assert not (tmp_path / "r").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(corpus: Corpus, run: Run, encoder: Path, tmp_path: Path) -> None:
    settings = TrainSettings(model=str(encoder), epochs=1, device="cpu")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, hard))  # no file may be larger: writing fails as on a full disk
    try:
        with pytest.raises(HeadwaterError, match="r: the disk is full"):
            train(corpus, Classification(max_length=32), tmp_path / "r", settings)
        with pytest.raises(HeadwaterError, match="again: the disk is full"):
            retrain(run, out=tmp_path / "again")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_recorded_checkpoints_outlive_a_failure(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "r")
    with pytest.raises(ZeroDivisionError), guarded(tmp_path / "r"):
        raise ZeroDivisionError
    assert len(Run.open(tmp_path / "r").checkpoints) == 2
    (tmp_path / "r" / "headwater" / "run.json").unlink()
    with pytest.raises(ZeroDivisionError), guarded(tmp_path / "r"):
        raise ZeroDivisionError
    assert not (tmp_path / "r").exists()


def test_full_accelerator_memory_says_what_to_lower(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match="Lower --batch-size or --max-length"), guarded(tmp_path / "r"):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_pairs_and_task_must_agree_before_the_first_step(settings: TrainSettings, tmp_path: Path) -> None:
    pairs = Corpus.read(rows(24, pairs=True), Columns(text_pair="pair"))
    with pytest.raises(DataError, match="the task is classification, but its columns name a second text"):
        train(pairs, Classification(max_length=32), tmp_path / "r", settings)
    single = Corpus.read(rows(24))
    with pytest.raises(DataError, match="the task is pairs, but its columns name no second text"):
        train(single, Classification(pairs=True, max_length=32), tmp_path / "r", settings)
    assert not (tmp_path / "r").exists()
