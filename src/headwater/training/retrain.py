"""Train again as a run was trained: the same beginning and the same arguments, on other rows or with another seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, overload

from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from headwater.errors import RunError
from headwater.models.load import load_model, load_tokenizer
from headwater.runs.corpus import Corpus
from headwater.runs.recorder import Recorder
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets
from headwater.training.fit import fit
from headwater.training.guard import guarded
from headwater.training.train import refuse_occupied
from headwater.training.trained import freeze, only_trained


@overload
def retrain(
    run: Run,
    *,
    corpus: Corpus | None = None,
    rows: Sequence[int] | None = None,
    seed: int | None = None,
    frozen: Sequence[str] = (),
    out: None = None,
    callbacks: Sequence[TrainerCallback] = (),
    title: str = "retraining",
    show: bool | None = None,
) -> PreTrainedModel: ...


@overload
def retrain(
    run: Run,
    *,
    corpus: Corpus | None = None,
    rows: Sequence[int] | None = None,
    seed: int | None = None,
    frozen: Sequence[str] = (),
    out: str | Path,
    callbacks: Sequence[TrainerCallback] = (),
    title: str = "retraining",
    show: bool | None = None,
) -> Run: ...


def retrain(
    run: Run,
    *,
    corpus: Corpus | None = None,
    rows: Sequence[int] | None = None,
    seed: int | None = None,
    frozen: Sequence[str] = (),
    out: str | Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    title: str = "retraining",
    show: bool | None = None,
) -> PreTrainedModel | Run:
    """Follow the run's recipe on `corpus` (the run's own if None), or on its `rows` only, in their order.

    With nothing but `run` it ends in the run's last checkpoint, bit for bit (same machine, same versions). Fewer
    rows keep the number of epochs, so they take fewer steps. `seed` changes the order of the rows and dropout, not
    the initial weights; what `frozen` names (as `TrainSettings.freeze` does) stays as it is too. Without `out` nothing
    stays on disk and the trained model comes back, in evaluation mode; with it, the new Run that is written there.
    `callbacks` are Trainer's.

    Raises RunError when the run has no recipe or `out` is not empty, DataError for labels the model does not know.
    """
    recipe = run.need_recipe()
    chosen = run.corpus if corpus is None else corpus
    if rows is not None:
        chosen = chosen.take(rows)
    tokenizer = load_tokenizer(recipe.initial)
    model = load_model(recipe.initial, run.task.auto, merge=False)  # of an adapter, the adapter is what is trained
    only_trained(model, run)
    freeze(model, frozen)
    targets = corpus_targets(run.task, chosen, model.config)
    if out is None:
        with TemporaryDirectory(prefix="headwater-") as folder:
            arguments = retrain_arguments(run, len(chosen.taught()), seed, Path(folder), {"save_strategy": "no"})
            return fit(
                model, tokenizer, run.task, chosen, targets, arguments, callbacks=callbacks, title=title, show=show
            )
    out = Path(out)
    refuse_occupied(out)
    recorder = Recorder(out, corpus=chosen, task=run.task, eval_corpus=run.eval_corpus)
    arguments = retrain_arguments(run, len(chosen.taught()), seed, out, {})
    told = [recorder, *callbacks]
    with guarded(out):
        fit(model, tokenizer, run.task, chosen, targets, arguments, callbacks=told, title=title, show=show)
    return Run.open(out, task=run.task)


def retrain_arguments(
    run: Run, rows: int, seed: int | None, out: Path, changes: Mapping[str, Any]
) -> TrainingArguments:
    """The recipe's arguments, with `changes`, for a retraining on `rows` rows. Raises RunError as it does."""
    recipe = run.need_recipe()
    options = _scaled(dict(recipe.arguments), len(run.corpus.taught()), rows)
    options["seed"] = recipe.seed if seed is None else seed
    return _arguments({**options, **changes}, out, run)


def _scaled(options: dict[str, Any], before: int, now: int) -> dict[str, Any]:
    """Where the recipe counts steps, change their number with that of the rows, so that epochs stay."""
    steps = int(options.get("max_steps") or -1)
    if steps <= 0 or before == now:
        return options
    batch = int(options["per_device_train_batch_size"]) * int(options.get("gradient_accumulation_steps") or 1)
    return options | {"max_steps": max(1, round(steps * math.ceil(now / batch) / math.ceil(before / batch)))}


def _arguments(options: dict[str, Any], out: Path, run: Run) -> TrainingArguments:
    """Make TrainingArguments of a recipe, quiet whatever they were: no reports, no hub, no second bar."""
    quiet = {
        "output_dir": str(out),
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "push_to_hub": False,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
    }
    try:
        return TrainingArguments(**(options | quiet))
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{run.folder}: this machine cannot follow the run's recipe ({reason}).") from error
