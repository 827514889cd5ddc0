"""Train a model on a corpus, and record all that explaining it and training it again will need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from headwater.errors import DataError, ModelError, RunError, UsageError
from headwater.models.load import load_classifier, load_config, load_model, load_tokenizer
from headwater.models.textcnn import TextCNN, TextCNNConfig
from headwater.runs.corpus import Corpus
from headwater.runs.custom import CustomLoss
from headwater.runs.recorder import Recorder
from headwater.runs.run import Run
from headwater.runs.task import Task, corpus_targets, length_limit, text_task
from headwater.training.adapters import with_adapter
from headwater.training.fit import fit, seeded
from headwater.training.guard import guarded
from headwater.training.labels import label_classes
from headwater.training.settings import TrainSettings, training_arguments
from headwater.training.trained import freeze
from headwater.training.vocabulary import learn_wordpiece

DEFAULT_LENGTH = 128  # tokens at which texts are cut when nobody says otherwise


def train(
    corpus: Corpus,
    task: Task,
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    eval_corpus: Corpus | None = None,
    show: bool | None = None,
) -> Run:
    """Train, and return the run that `out` now holds: checkpoints, and what Recorder writes beside them.

    The same corpus, settings and machine give the same bits. `eval_corpus` is not trained on; the run keeps it.

    Raises RunError when `out` is not empty, DataError for a corpus that cannot be trained on, ModelError for a
    model that cannot be loaded. All checks come before the first step; nothing is written before them. A training that
    fails later (a full disk, a rate so high that the weights are no longer numbers) leaves a usable run or nothing.
    """
    settings = settings or TrainSettings()
    out = Path(out)
    refuse_occupied(out)
    _check_pairs(corpus, task)
    with seeded(settings.seed):
        if text_task(task) is None:
            model, tokenizer, task = _begin(corpus, task, settings, label_classes(corpus, settings.labels))
        else:
            model, tokenizer, task = _begin_text(task, settings)
        task.check_model(model.config)
        if settings.lora:
            model = with_adapter(model, task, settings)
        freeze(model, settings.freeze or ())
    targets = corpus_targets(task, corpus, model.config)
    if eval_corpus is not None and eval_corpus.columns.label is not None:
        corpus_targets(task, eval_corpus, model.config)
    recorder = Recorder(out, corpus=corpus, task=task, eval_corpus=eval_corpus)
    arguments = training_arguments(
        settings, out, len(corpus.taught()), label_smoothing=getattr(task, "label_smoothing", 0.0)
    )
    with guarded(out):
        fit(model, tokenizer, task, corpus, targets, arguments, callbacks=[recorder], show=show)
    return Run.open(out, task=task)


def _check_pairs(corpus: Corpus, task: Task) -> None:
    """Find now what opening the run would find after the training."""
    if task.kind not in ("classification", "pairs"):
        return
    if (corpus.columns.text_pair is not None) != (task.kind == "pairs"):
        has = "a" if task.kind == "classification" else "no"
        raise DataError(
            f"{corpus.name}: the task is {task.kind}, but its columns name {has} second text. "
            "See Columns(text_pair=) and Classification(pairs=)."
        )


def refuse_occupied(out: Path) -> None:
    """Raise RunError unless `out` is a new or empty folder: two trainings in one folder would mix checkpoints."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: is not empty. Choose another folder, or delete it first.")


def _begin(
    corpus: Corpus, task: Task, settings: TrainSettings, label2id: dict[str, int]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Task]:
    """Make what the first step starts from: the model, its tokenizer, and the task with its length filled in."""
    length = task.max_length or settings.max_length
    if settings.from_scratch:
        return _new_textcnn(corpus, _with_length(task, length or DEFAULT_LENGTH), settings, label2id)
    tokenizer = load_tokenizer(settings.model)
    config = load_config(settings.model)
    if length is None:
        length = min(DEFAULT_LENGTH, length_limit(tokenizer, config) or DEFAULT_LENGTH)
    model = load_classifier(settings.model, label2id=label2id)
    _ensure_padding(model, tokenizer, settings.model)
    return model, tokenizer, _with_length(task, length).with_limit(tokenizer, config)


def _begin_text(task: Task, settings: TrainSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Task]:
    """The same for a task whose target is a text: the model has its head already, and padding counts nowhere."""
    if settings.from_scratch:
        raise UsageError(f"textcnn classifies; a {task.kind} task needs another model (smollm2, or a folder).")
    if settings.labels is not None:
        raise UsageError(f"a {task.kind} task has no classes: leave labels out.")
    config = load_config(settings.model)
    task.check_model(config)  # before weights are looked for under another head's names
    tokenizer = load_tokenizer(settings.model)
    limit = length_limit(tokenizer, config) or DEFAULT_LENGTH
    length = task.max_length or settings.max_length or min(DEFAULT_LENGTH, limit)
    model = load_model(settings.model, task.auto)
    return model, tokenizer, _with_length(task, length).with_limit(tokenizer, config)


def _new_textcnn(
    corpus: Corpus, task: Task, settings: TrainSettings, label2id: dict[str, int]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Task]:
    length = cast(int, task.max_length)
    texts = [text for row in corpus for text in (row.text, row.text_pair) if text is not None]
    tokenizer = learn_wordpiece(texts, size=settings.vocabulary, max_length=length)
    try:
        config = TextCNNConfig(
            vocab_size=len(tokenizer),
            max_length=length,
            pad_token_id=tokenizer.pad_token_id,
            label2id=label2id,
            id2label={number: name for name, number in label2id.items()},
        )
    except ValueError as error:
        raise ModelError(f"textcnn: {error} Raise --max-length.") from error
    return TextCNN(config), tokenizer, task


def _with_length(task: Task, length: int) -> Task:
    """Return the task cut at `length` tokens; tasks are frozen data classes."""
    if isinstance(task, CustomLoss):
        return replace(task, base=_with_length(task.base, length))
    return task if task.max_length == length else cast(Task, replace(cast(Any, task), max_length=length))


def _ensure_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Give models without a padding token (GPT-2) their end token for it, as is usual; both must agree."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"{name}: its tokenizer has neither a padding nor an end token; set one and save it.")
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
