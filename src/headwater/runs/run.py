"""A run: what was trained, on what, and which checkpoints it left behind."""

from __future__ import annotations

import html
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from headwater.errors import DataError, HeadwaterWarning, ModelError, RunError, UsageError
from headwater.models.load import load_tokenizer
from headwater.runs.checkpoint import Checkpoint
from headwater.runs.corpus import Corpus
from headwater.runs.custom import CustomLoss, asks_for
from headwater.runs.embeddings import embeddings_moved, still_note
from headwater.runs.rates import ASK_FOR_WEIGHTS, RateLog, Weights
from headwater.runs.rebuild import rebuilt_weights
from headwater.runs.recipe import Recipe
from headwater.runs.record import Record, has_record, missing_checkpoints, read_record, record_folder
from headwater.runs.task import Task, corpus_targets, text_task

_FILLED_IN = ("max_length", "max_target_length", "start_token")  # settings of a task that its model can tell


@dataclass(frozen=True, eq=False)
class Run:
    """A finished (or running) training. `Run.open` and `Run.create` make one.

    `checkpoints` stand in the order of their steps. `warnings` are sentences about what changes the meaning of
    scores; `no_recipe` says why the run cannot be trained again, and is empty where it can.
    """

    folder: Path
    corpus: Corpus
    task: Task
    checkpoints: tuple[Checkpoint, ...]
    recipe: Recipe | None = None
    eval_corpus: Corpus | None = None
    label2id: dict[str, int] = field(default_factory=dict)
    no_recipe: str = ""
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls, folder: str | Path, *, corpus: Any = None, task: Task | None = None, recipe: Recipe | None = None
    ) -> Run:
        """Open a folder that Recorder or `Run.create` wrote, or a plain Trainer folder given `corpus` and `task`.

        `corpus` is a Corpus or anything that `Corpus.read` takes. Raises RunError where the folder lacks something
        or does not fit what was given, DataError for the corpus and ModelError for the model.
        """
        folder = Path(folder).resolve()
        given = corpus if corpus is None or isinstance(corpus, Corpus) else Corpus.read(corpus)
        if not folder.is_dir():
            raise RunError(f"{folder}: no such folder.")
        if has_record(folder):
            return _open_record(folder, given, task, recipe)
        return _open_plain(folder, given, task, recipe)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        checkpoints: Sequence[tuple[str | Path, float]],
        corpus: Corpus,
        task: Task,
        eval_corpus: Corpus | None = None,
    ) -> Run:
        """Make a run of a training that nobody recorded: model folders in order, each with its weight.

        A weight is the sum of the learning rates of the steps since the folder before; where the rate was constant,
        the number of steps will do, for only the proportions count in a ranking. Writes `folder`/headwater.
        """
        folder = Path(folder).resolve()
        if has_record(folder):
            raise RunError(f"{folder}: there is a run already. Open it with Run.open, or choose another folder.")
        names = _names([Path(path) for path, _ in checkpoints])
        made = tuple(
            Checkpoint(name, Path(path).resolve(), _step(Path(path)), float(weight), None)
            for name, (path, weight) in zip(names, checkpoints, strict=True)
        )
        missing = missing_checkpoints(made)
        if missing:
            raise RunError(f"{missing[0].path}: no such folder.")
        why = "it was made by Run.create, which does not know how the training went."
        run = _checked(Run(folder, corpus, task, made, None, eval_corpus, no_recipe=why))
        record = Record(run.folder, corpus, eval_corpus, run.task, run.label2id, made, why)
        record.write_corpora()
        record.write()
        return _warned(run, [])

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def id2label(self) -> dict[int, str]:
        """Class number to label."""
        return {number: name for name, number in self.label2id.items()}

    @cached_property
    def targets(self) -> list[int]:
        """The class number of every row's label, as the model counts them; zeros where the targets are texts."""
        return corpus_targets(self.task, self.corpus, self.checkpoints[-1].config)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer saved with the last checkpoint, or else with the run. Raises RunError, ModelError."""
        tokenizer = _find_tokenizer(self)
        pad = self.checkpoints[-1].config.pad_token_id
        if tokenizer.pad_token_id is not None and pad is not None and tokenizer.pad_token_id != pad:
            raise ModelError(
                f"{self.checkpoints[-1].path}: the model's pad_token_id is {pad}, the tokenizer's "
                f"{tokenizer.pad_token_id}. Make them equal in config.json."
            )
        return tokenizer

    def need_recipe(self) -> Recipe:
        """The recipe, for whatever trains again. Raises RunError saying why there is none."""
        if self.recipe is None:
            raise RunError(f"{self.folder}: this run cannot be trained again: {self.no_recipe}")
        return self.recipe

    def select(self, checkpoints: str | Sequence[str | int] = "all") -> tuple[Checkpoint, ...]:
        """`all`, `last`, or the checkpoints of these names or steps, in the run's order. Raises UsageError."""
        if checkpoints == "all":
            return self.checkpoints
        if checkpoints == "last":
            return self.checkpoints[-1:]
        wanted = [checkpoints] if isinstance(checkpoints, str) else list(checkpoints)
        known: dict[str | int | None, Checkpoint] = {c.step: c for c in self.checkpoints}
        known |= {str(c.step): c for c in self.checkpoints if c.step is not None}
        known |= {c.name: c for c in self.checkpoints}
        for name in wanted:
            if name not in known or name is None:
                there = ", ".join(c.name for c in self.checkpoints)
                raise UsageError(f"{self.folder}: no checkpoint {name!r}. There are {there}; or say 'all' or 'last'.")
        chosen = {known[name].name for name in wanted}
        if not chosen:
            raise UsageError(f"{self.folder}: choose at least one checkpoint.")
        return tuple(c for c in self.checkpoints if c.name in chosen)

    def __repr__(self) -> str:
        names = ", ".join(c.name for c in self.checkpoints)
        return f"Run({str(self.folder)!r}, {len(self.corpus):,} rows, checkpoints: {names})"

    def _repr_html_(self) -> str:
        head = "<tr><th>checkpoint</th><th>step</th><th>weight</th><th>learning rate</th></tr>"
        rows = "".join(
            f"<tr><td>{html.escape(c.name)}</td><td>{c.step}</td><td>{c.weight:.4g}</td>"
            f"<td>{'' if c.learning_rate is None else f'{c.learning_rate:.3g}'}</td></tr>"
            for c in self.checkpoints
        )
        notes = "".join(f"<li>{html.escape(warning)}</li>" for warning in self.warnings)
        title = f"<p>Run {html.escape(self.name)}: {len(self.corpus):,} rows of {html.escape(self.corpus.name)}</p>"
        return f"{title}<table>{head}{rows}</table><ul>{notes}</ul>"


def _open_record(folder: Path, corpus: Corpus | None, task: Task | None, recipe: Recipe | None) -> Run:
    record = read_record(folder)
    if corpus is not None and corpus.fingerprint != record.corpus.fingerprint:
        raise RunError(
            f"{folder}: trained on another corpus: {record.corpus.name} has {len(record.corpus):,} rows with digest "
            f"{record.corpus.fingerprint[:8]}, {corpus.name} {len(corpus):,} with {corpus.fingerprint[:8]}. "
            "Leave corpus= out: the run keeps its own."
        )
    if isinstance(record.task, CustomLoss) and task is None:
        raise RunError(f"{folder}: {asks_for(record.task.name)}")
    if task is not None and not _same_task(task, record.task):
        raise RunError(f"{folder}: the run was recorded with {record.task}. Leave task= out: the run keeps its own.")
    checkpoints, notes = _standing(record)
    recipe_file = record_folder(folder) / "recipe.json"
    if recipe is None and not record.no_recipe and recipe_file.is_file():
        recipe = Recipe.read(recipe_file)
    kept = record.task
    if isinstance(kept, CustomLoss) and isinstance(task, CustomLoss):
        kept = replace(task, base=kept.base)
    run = Run(folder, record.corpus, kept, checkpoints, recipe, record.eval_corpus, {}, record.no_recipe)
    return _warned(_checked(run), notes)


def _same_task(given: Task, recorded: Task) -> bool:
    """Whether they are the same where the given one says something: what a model tells may be left to the record."""
    said, known = given.to_json(), recorded.to_json()
    left = {name: known.get(name) for name in _FILLED_IN if name in said and said[name] is None}
    return {**said, **left} == known


def _standing(record: Record) -> tuple[tuple[Checkpoint, ...], list[str]]:
    """The checkpoints that are still there. Their weights follow from the recorded rates, if there are any."""
    missing = missing_checkpoints(record.checkpoints)
    kept = [checkpoint for checkpoint in record.checkpoints if checkpoint not in missing]
    rates_file = record_folder(record.folder) / "rates.json"
    if missing and (not kept or not rates_file.is_file()):
        raise RunError(f"{missing[0].path}: this checkpoint of the run is gone. Was it moved or deleted? Put it back.")
    if not rates_file.is_file() or not kept:
        return tuple(kept), []
    log = RateLog.read(rates_file)
    if log.first_step > 1:
        return _weighted(kept, rebuilt_weights([checkpoint.path for checkpoint in kept]))
    checkpoints, notes = _weighted(kept, log.weights([checkpoint.step or 0 for checkpoint in kept]))
    if missing:
        gone = ", ".join(checkpoint.name for checkpoint in missing)
        notes.append(f"{gone}: deleted since the training; the steps count to the next checkpoint that is there.")
    return checkpoints, notes


def _weighted(checkpoints: Sequence[Checkpoint], weights: Weights) -> tuple[tuple[Checkpoint, ...], list[str]]:
    made = tuple(
        replace(checkpoint, weight=weight, learning_rate=rate)
        for checkpoint, weight, rate in zip(checkpoints, weights.weights, weights.rates, strict=True)
    )
    return made, [weights.warning] if weights.warning else []


def _open_plain(folder: Path, corpus: Corpus | None, task: Task | None, recipe: Recipe | None) -> Run:
    found = [path for path in folder.iterdir() if path.is_dir() and _step(path) is not None]
    if not found:
        fix = "Open the folder that holds checkpoint-... folders (Trainer's output_dir)"
        if (folder / "config.json").is_file():
            fix = "This is a single model: use Run.create(folder, checkpoints=[(path, 1.0)], corpus=, task=)"
        raise RunError(f"{folder}: neither a recorded run nor checkpoints are here. {fix}.")
    if corpus is None or task is None:
        lacking = " and ".join(name for name, given in (("corpus", corpus), ("task", task)) if given is None)
        raise RunError(
            f"{folder}: a plain Trainer folder does not say what it was trained on. Give {lacking}: "
            "Run.open(folder, corpus=..., task=hw.Classification())."
        )
    found.sort(key=lambda path: _step(path) or 0)
    bare = [Checkpoint(path.name, path, _step(path), 0.0, None) for path in found]
    checkpoints, notes = _weighted(bare, rebuilt_weights(found))
    why = "" if recipe else "it was trained without hw.Recorder, so its recipe is not known. Give Run.open(recipe=...)."
    return _warned(_checked(Run(folder, corpus, task, checkpoints, recipe, no_recipe=why)), notes)


def _checked(run: Run) -> Run:
    """Check that the run's parts fit each other, and fill in what follows from them."""
    if not run.checkpoints:
        raise RunError(f"{run.folder}: the run has no checkpoints. Train with save_strategy='epoch' or 'steps'.")
    for checkpoint in run.checkpoints:
        if not any(checkpoint.path.glob("*.safetensors")):
            raise RunError(f"{checkpoint.path}: no weights (*.safetensors) here. Was the saving cut short?")
        if not math.isfinite(checkpoint.weight) or checkpoint.weight < 0:
            raise RunError(f"{checkpoint.path}: weight {checkpoint.weight}; weights are sums of learning rates, >= 0.")
        run.task.check_model(checkpoint.config)
    if not any(checkpoint.weight for checkpoint in run.checkpoints):
        raise RunError(
            f"{run.folder}: the weights of all checkpoints are zero, so every score would be. {ASK_FOR_WEIGHTS}"
        )
    has_pairs, wants_pairs = run.corpus.columns.text_pair is not None, run.task.kind == "pairs"
    if has_pairs != wants_pairs:
        raise DataError(
            f"{run.corpus.name}: the task is {run.task.kind}, but its columns name "
            f"{'a' if has_pairs else 'no'} second text. See Columns(text_pair=) and Classification(pairs=)."
        )
    config = run.checkpoints[-1].config
    classes = {} if text_task(run.task) else config.label2id or {}
    object.__setattr__(run, "label2id", {str(n): int(i) for n, i in classes.items()})
    object.__setattr__(run, "task", run.task.with_limit(run.tokenizer, config))
    object.__setattr__(run, "checkpoints", tuple(replace(c, auto=run.task.auto) for c in run.checkpoints))
    run.targets  # noqa: B018  labels that the model does not know are found now, not in the middle of a build
    held_out = run.eval_corpus
    if held_out is not None and held_out.columns.label is not None:
        corpus_targets(run.task, held_out, config)
    return run


def _find_tokenizer(run: Run) -> PreTrainedTokenizerFast:
    places = [run.checkpoints[-1].path, record_folder(run.folder) / "initial", run.folder]
    for place in places:
        if (place / "tokenizer.json").is_file() or (place / "tokenizer_config.json").is_file():
            return load_tokenizer(place)
    raise RunError(f"{places[0]}: there is no tokenizer. Put it there: tokenizer.save_pretrained({str(places[0])!r}).")


def _warned(run: Run, notes: Sequence[str]) -> Run:
    """Say, and keep for the faces, what changes the meaning of the run's scores."""
    folders = [run.checkpoints[0].path, run.checkpoints[-1].path][: len(run.checkpoints)]
    initial = record_folder(run.folder) / "initial"
    if initial.is_dir():
        folders.insert(0, initial)
    moved = len(folders) < 2 or embeddings_moved(folders, run.task.auto)
    for note in [*notes, *([] if moved else [still_note(folders[-1])])]:
        run.warnings.append(note)
        warnings.warn(note, HeadwaterWarning, stacklevel=4)
    return run


def _names(paths: Sequence[Path]) -> list[str]:
    """Folder names, told apart by a number where they occur twice."""
    seen: Counter[str] = Counter()
    names = []
    for path in paths:
        base = path.resolve().name
        seen[base] += 1
        names.append(base if seen[base] == 1 else f"{base}-{seen[base]}")
    return names


def _step(path: Path) -> int | None:
    kind, _, number = path.name.rpartition("-")
    return int(number) if kind == "checkpoint" and number.isdigit() else None
