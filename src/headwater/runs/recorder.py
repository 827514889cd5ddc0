"""Recorder: a TrainerCallback that writes down what Trainer leaves out, so that a run can be opened and repeated.

In every step it appends one number per optimizer group; all else happens once, or when Trainer saves a checkpoint.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from headwater.errors import HeadwaterWarning, RunError
from headwater.files import remove_leftovers
from headwater.runs.checkpoint import Checkpoint
from headwater.runs.corpus import Corpus
from headwater.runs.matching import check_dataset
from headwater.runs.rates import RateLog
from headwater.runs.recipe import Recipe, portable_arguments
from headwater.runs.record import Record, read_record, record_folder
from headwater.runs.retrainable import unlike_arguments, unlike_schedule
from headwater.runs.task import Task, corpus_targets, text_task


class Recorder(TrainerCallback):
    """Records a training in `folder`/headwater. `folder` is the run's, usually the Trainer's output_dir.

        Trainer(..., processing_class=tokenizer, callbacks=[hw.Recorder(folder, corpus=corpus, task=task)])

    `corpus` holds the rows of the train_dataset in the same order; `eval_corpus` is kept beside it for later. At the
    start of the training it raises RunError, DataError or ModelError where corpus, task and Trainer do not fit each
    other, before anything is written.
    """

    def __init__(self, folder: str | Path, *, corpus: Corpus, task: Task, eval_corpus: Corpus | None = None) -> None:
        self.folder = Path(folder).resolve()
        self.corpus = corpus
        self.task = task
        self.eval_corpus = eval_corpus
        self._log: RateLog | None = None
        self._record: Record | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Check that everything fits, and write what is known before the first step."""
        self._log = self._record = None
        if not state.is_world_process_zero:
            return
        model, optimizer = given["model"], given["optimizer"]
        tokenizer = _tokenizer(given.get("processing_class"))
        self._check(args, model, tokenizer, given.get("train_dataloader"))
        task = self.task.with_limit(tokenizer, model.config)
        log = _empty_log(model, optimizer)
        where = record_folder(self.folder)
        resumed = state.global_step > 0
        if resumed and (where / "rates.json").is_file():
            log, no_recipe = self._go_on(log, state.global_step)
        else:
            log.first_step = state.global_step + 1
            no_recipe = unlike_arguments(args, optimizer)
            if resumed:
                log.saved = dict.fromkeys(_steps_on_disk(args, state.global_step))
                no_recipe = f"its first {state.global_step:,} steps were not recorded."
                warnings.warn(f"Recorder: {no_recipe}", HeadwaterWarning, stacklevel=2)
            self._begin(model, tokenizer)
        classes = {} if text_task(task) else model.config.label2id or {}
        label2id = {str(name): int(number) for name, number in classes.items()}
        self._record = Record(self.folder, self.corpus, self.eval_corpus, task, label2id, (), no_recipe)
        self._record.write_corpora()
        seed = int(args.seed)
        Recipe(portable_arguments(args), where / "initial", task.max_length, seed).write(where / "recipe.json")
        self._log = log
        self._write(args)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Note the rate of each group for the step about to be taken."""
        if self._log is not None:
            for rates, group in zip(self._log.rates, given["optimizer"].param_groups, strict=True):
                rates.append(float(group["lr"]))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Mixed precision skips a step whose gradients overflowed: its rate moved nothing."""
        if self._log is not None and getattr(given["optimizer"], "step_was_skipped", False):
            for rates in self._log.rates:
                rates[-1] = 0.0

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Note the checkpoint just saved, and write all rates so far."""
        if self._log is not None:
            group = given["optimizer"].param_groups[self._log.embedding_group]
            self._log.saved[state.global_step] = float(group["lr"])
            _complete_adapter(given["model"], _checkpoint_path(args, state.global_step))
            self._write(args)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Write the final record."""
        if self._log is not None and self._record is not None:
            if not self._record.no_recipe:
                why = unlike_schedule(args, state.max_steps, self._log.rates)
                self._record = replace(self._record, no_recipe=why)
            self._write(args)
            self._log = None

    def _check(
        self, args: TrainingArguments, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, loader: Any
    ) -> None:
        smoothing = getattr(self.task, "label_smoothing", 0.0)
        if args.label_smoothing_factor != smoothing:
            raise RunError(
                f"Trainer smooths labels by {args.label_smoothing_factor} (label_smoothing_factor), the task by "
                f"{smoothing}. Make them equal: Classification(label_smoothing={args.label_smoothing_factor})."
            )
        self.task.check_model(model.config)
        task = self.task.with_limit(tokenizer, model.config)
        if getattr(args, "packing", False):
            raise RunError(
                "Trainer packs several rows into one (packing=True), so what one row did cannot be told. "
                "Train with packing=False."
            )
        corpus_targets(task, self.corpus, model.config)
        taught = self.corpus.taught()  # a training of ours leaves rows of weight 0 out
        check_dataset(
            getattr(loader, "dataset", None), taught, corpus_targets(task, taught, model.config), task, tokenizer
        )
        if self.eval_corpus is not None and self.eval_corpus.columns.label is not None:
            corpus_targets(task, self.eval_corpus, model.config)

    def _begin(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Clear an earlier record away and keep what the training begins from."""
        where = record_folder(self.folder)
        where.mkdir(parents=True, exist_ok=True)
        for name in ("run.json", "rates.json", "recipe.json", "corpus.parquet", "eval.parquet"):
            (where / name).unlink(missing_ok=True)
        remove_leftovers(where)
        for folder in (where / "initial", *where.glob(".initial.*")):
            shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=where, prefix=".initial.") as temporary:
            made = Path(temporary) / "initial"
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
            _complete_adapter(model, made)
            made.replace(where / "initial")

    def _go_on(self, fresh: RateLog, step: int) -> tuple[RateLog, str]:
        """The log of the training that is resumed at `step`, and why it cannot be repeated, if so."""
        where = record_folder(self.folder)
        log = RateLog.read(where / "rates.json")
        record = read_record(self.folder)
        if record.corpus.fingerprint != self.corpus.fingerprint:
            raise RunError(
                f"{self.folder}: the training that is resumed had another corpus ({record.corpus.name}, "
                f"{len(record.corpus):,} rows). Resume with that one, or start anew in another folder."
            )
        if log.parameters != fresh.parameters:
            raise RunError(f"{self.folder}: the optimizer's groups changed since the training began.")
        known = log.first_step - 1 + len(log.rates[log.embedding_group])
        if known < step:
            raise RunError(
                f"{where / 'rates.json'}: ends at step {known:,}, but the training goes on from step {step:,}. "
                "Resume from an earlier checkpoint."
            )
        log.back_to(step)
        return log, record.no_recipe

    def _write(self, args: TrainingArguments) -> None:
        """rates.json first: a run.json never names a checkpoint whose rates are not there."""
        if self._log is None or self._record is None:
            return
        paths = {step: _checkpoint_path(args, step) for step in sorted(self._log.saved)}
        paths = {step: path for step, path in paths.items() if path.is_dir()}
        weights = self._log.weights(list(paths))
        checkpoints = tuple(
            Checkpoint(path.name, path, step, weight, rate)
            for (step, path), weight, rate in zip(paths.items(), weights.weights, weights.rates, strict=True)
        )
        self._log.write(record_folder(self.folder) / "rates.json")
        self._record = replace(self._record, checkpoints=checkpoints)
        self._record.write()


def _checkpoint_path(args: TrainingArguments, step: int) -> Path:
    return Path(args.output_dir or ".").resolve() / f"checkpoint-{step}"


def _steps_on_disk(args: TrainingArguments, last: int) -> list[int]:
    """Steps up to `last` of the checkpoints that Trainer saved before Recorder came."""
    names = [path.name.rpartition("-")[2] for path in _checkpoint_path(args, 0).parent.glob("checkpoint-*")]
    return sorted(int(name) for name in names if name.isdigit() and int(name) <= last)


def _complete_adapter(model: PreTrainedModel, folder: Path) -> None:
    """A folder that holds only an adapter does not say which labels the model has: put its configuration there."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        model.config.save_pretrained(folder)


def _tokenizer(given: Any) -> PreTrainedTokenizerFast:
    if given is None:
        raise RunError("Recorder needs the tokenizer. Give it to Trainer: Trainer(processing_class=tokenizer, ...).")
    if not getattr(given, "is_fast", False):
        raise RunError(f"Recorder needs a fast tokenizer as Trainer's processing_class, not {type(given).__name__}.")
    return given  # type: ignore[no-any-return]


def _empty_log(model: PreTrainedModel, optimizer: Any) -> RateLog:
    names = {id(value): name for name, value in model.named_parameters()}
    groups = [[names.get(id(value), "?") for value in group["params"]] for group in optimizer.param_groups]
    matrix = id(model.get_input_embeddings().weight)
    holding = [
        place for place, group in enumerate(optimizer.param_groups) if matrix in {id(v) for v in group["params"]}
    ]
    return RateLog(groups, holding[0] if holding else 0)
