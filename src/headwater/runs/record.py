"""What a run's folder says about itself: RUN/headwater/run.json, and the corpus beside it.

run.json        format version, task, label2id, corpus fingerprints, checkpoints (paths relative to RUN)
corpus.parquet  the rows trained on;  eval.parquet  held-out rows, if any
rates.json      the learning rates of every step   (Recorder only)
recipe.json     the arguments of the training      (Recorder only)
initial/        what the training began from       (Recorder only)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.errors import RunError
from headwater.files import read_json, write_json
from headwater.runs.checkpoint import Checkpoint
from headwater.runs.corpus import Corpus
from headwater.runs.kinds import task_from_json
from headwater.runs.task import Task

FORMAT = 1
FOLDER = "headwater"


def record_folder(folder: Path) -> Path:
    """Where a run's record stands."""
    return folder / FOLDER


def has_record(folder: Path) -> bool:
    """Whether a run's folder has a record."""
    return (record_folder(folder) / "run.json").is_file()


@dataclass(frozen=True)
class Record:
    """The content of run.json, with the corpora that it names."""

    folder: Path
    corpus: Corpus
    eval_corpus: Corpus | None
    task: Task
    label2id: dict[str, int]
    checkpoints: tuple[Checkpoint, ...]
    no_recipe: str
    """Why the run cannot be trained again; empty where it can."""

    def write(self) -> None:
        """Write run.json; the corpora are written by `write_corpora`, once."""
        saved = {
            "format": FORMAT,
            "task": self.task.to_json(),
            "label2id": self.label2id,
            "corpus": _described(self.corpus),
            "eval": None if self.eval_corpus is None else _described(self.eval_corpus),
            "checkpoints": [_checkpoint_to_json(self.folder, checkpoint) for checkpoint in self.checkpoints],
            "no_recipe": self.no_recipe,
        }
        write_json(record_folder(self.folder) / "run.json", saved)

    def write_corpora(self) -> None:
        """Write corpus.parquet, and eval.parquet if there is one."""
        self.corpus.save(record_folder(self.folder) / "corpus.parquet")
        if self.eval_corpus is not None:
            self.eval_corpus.save(record_folder(self.folder) / "eval.parquet")


def read_record(folder: Path) -> Record:
    """Read what `Record.write` wrote. Raises RunError for a newer format or files that do not fit together."""
    where = record_folder(folder)
    path = where / "run.json"
    saved = read_json(path)
    version = saved.get("format") if isinstance(saved, dict) else None
    if not isinstance(version, int):
        raise RunError(f"{path}: not a run's record.")
    if version > FORMAT:
        raise RunError(f"{path}: format {version}, newer than this Headwater knows ({FORMAT}). Upgrade headwater.")
    try:
        return Record(
            folder=folder,
            corpus=_read_corpus(where / "corpus.parquet", saved["corpus"]),
            eval_corpus=_read_corpus(where / "eval.parquet", saved["eval"]) if saved["eval"] else None,
            task=task_from_json(saved["task"]),
            label2id=dict(saved["label2id"]),
            checkpoints=tuple(_checkpoint_from_json(folder, entry) for entry in saved["checkpoints"]),
            no_recipe=saved["no_recipe"],
        )
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged ({type(error).__name__}: {error}).") from error


def missing_checkpoints(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those whose folder is not there."""
    return [checkpoint for checkpoint in checkpoints if not checkpoint.path.is_dir()]


def _described(corpus: Corpus) -> dict[str, Any]:
    return {"name": corpus.name, "rows": len(corpus), "fingerprint": corpus.fingerprint}


def _read_corpus(path: Path, described: dict[str, Any]) -> Corpus:
    corpus = Corpus.read(path, name=described["name"])
    if corpus.fingerprint != described["fingerprint"]:
        raise RunError(f"{path}: not the corpus that the run was recorded with. Put the recorded file back.")
    return corpus


def _checkpoint_to_json(folder: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": checkpoint.name,
        "path": Path(os.path.relpath(checkpoint.path, folder)).as_posix(),
        "step": checkpoint.step,
        "weight": checkpoint.weight,
        "learning_rate": checkpoint.learning_rate,
    }


def _checkpoint_from_json(folder: Path, saved: dict[str, Any]) -> Checkpoint:
    path = Path(os.path.normpath(folder / saved["path"]))
    return Checkpoint(saved["name"], path, saved["step"], float(saved["weight"]), saved["learning_rate"])
