"""The trainings that are studied: word embeddings trained and frozen, labels as they are and partly flipped.

DIR/runs/frozen, frozen-noisy, trained-noisy     made by the run's own recipe, from its own first weights
DIR/runs/NAME.json                               what each was made of; written when it is whole
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from headwater.errors import DataError, HeadwaterError, HeadwaterWarning, UsageError
from headwater.evaluation.first_vs_last.settings import Embeddings, StudySettings
from headwater.files import read_json, write_json
from headwater.models.load import load_model
from headwater.runs import Corpus, Run
from headwater.training import retrain
from headwater.training.trained import EMBEDDINGS, only_trained

FLIPPED = "flipped"
"""The column that says which labels were flipped."""


@dataclass(frozen=True)
class Variant:
    """One way of training, on the labels as they are and on labels of which a part was flipped."""

    embeddings: Embeddings
    clean: Run
    noisy: Run | None
    flipped: Bool[np.ndarray, " rows"]


def make_variants(run: Run, folder: Path, settings: StudySettings, *, show: bool | None) -> list[Variant]:
    """Train what is not there yet. Raises RunError without a recipe, UsageError where nothing can be frozen."""
    run.need_recipe()
    moved = moves_embeddings(run)
    if settings.embeddings == "trained" and not moved:
        raise UsageError(f"{run.folder}: this training leaves the word embeddings alone. Study it as frozen.")
    wanted = {"both": ("trained", "frozen"), "trained": ("trained",), "frozen": ("frozen",)}[settings.embeddings]
    noisy = flip_labels(run.corpus, settings.flips, seed=settings.seed)
    needs_noise = bool({"noise", "filtering"} & set(settings.protocols))
    flipped = np.array(noisy.table.column(FLIPPED).to_pylist(), dtype=np.bool_)
    made = []
    for name in wanted if moved else ("frozen",):
        still = (EMBEDDINGS,) if name == "frozen" and moved else ()
        clean = _trained(run, folder / name, None, still, show) if still else run
        found = _trained(run, folder / f"{name}-noisy", noisy, still, show) if needs_noise else None
        made.append(Variant(name, clean, found, flipped))  # type: ignore[arg-type]
    return made


def moves_embeddings(run: Run) -> bool:
    """Whether the run's training moves its word embeddings."""
    model = load_model(run.need_recipe().initial, run.task.auto, merge=False)
    only_trained(model, run)
    return bool(model.get_input_embeddings().weight.requires_grad)


def flip_labels(corpus: Corpus, share: float, *, seed: int) -> Corpus:
    """Give exactly this part of the rows another label, drawn evenly; a column says which. Raises DataError."""
    names = corpus.label_names()
    column = corpus.columns.label
    if column is None or len(names) < 2:
        raise DataError(f"{corpus.name}: labels can only be flipped where there are two or more.")
    generator = np.random.default_rng([seed, 3])
    labels = corpus.table.column(column).to_pylist()
    rows = np.sort(generator.permutation(len(corpus))[: round(share * len(corpus))])
    changes = {}
    for row in rows.tolist():
        others = [name for name in names if name != labels[row]]
        changes[row] = others[int(generator.integers(len(others)))]
    flipped = np.zeros(len(corpus), dtype=np.bool_)
    flipped[rows] = True
    made = corpus.with_labels(changes)
    table = made.table
    if FLIPPED in table.column_names:
        table = table.drop_columns([FLIPPED])
    return Corpus(table.append_column(FLIPPED, pa.array(flipped)), made.columns, made.name)


def _trained(run: Run, place: Path, corpus: Corpus | None, frozen: Sequence[str], show: bool | None) -> Run:
    """The run at `place`, if it is whole and made of the same; else it is made anew."""
    facts: dict[str, Any] = {
        "checkpoints": [checkpoint.fingerprint for checkpoint in run.checkpoints],
        "corpus": (corpus or run.corpus).fingerprint,
        "frozen": list(frozen),
    }
    note = place.with_name(f"{place.name}.json")
    try:
        whole = note.is_file() and read_json(note) == facts
    except HeadwaterError:
        whole = False
    if not whole:
        note.unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        retrain(run, corpus=corpus, frozen=frozen, out=place, title=f"training {place.name}", show=show)
        write_json(note, facts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadwaterWarning)  # that embeddings stood still is what is studied
        return Run.open(place, task=run.task)
