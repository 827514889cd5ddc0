"""The one place where weights are trained: transformers' Trainer over a corpus and a task.

Training and retraining go through `fit`, so that the same initial weights, rows and arguments give the same bits.
The loss is the task's own, put together over the batch: what is trained is what is explained.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from headwater.progress import Advance, progress_bar
from headwater.runs.corpus import Corpus
from headwater.runs.language import batch_mean
from headwater.runs.task import Encoding, Task, TextTask
from headwater.training.adapters import merged
from headwater.training.guard import check_finite

Item = dict[str, Any]
WEIGHTS = "row_weights"
"""Of a batch: what each row's loss counts."""


class EncodedRows(Dataset[Item]):
    """A corpus as a Trainer takes it. `input_ids` stand apart because its length-grouping sampler looks there."""

    def __init__(
        self, encodings: Sequence[Encoding], targets: Sequence[int], weights: Sequence[float] | None = None
    ) -> None:
        self.items = [
            {"input_ids": encoding.input_ids, "encoding": encoding, "labels": target}
            for encoding, target in zip(encodings, targets, strict=True)
        ]
        for item, weight in zip(self.items, weights or (), strict=weights is not None):
            item["weight"] = weight

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Item:
        return self.items[place]


class TaskTrainer(Trainer):
    """A Trainer whose loss is `task.batch_loss`, or `weighted_loss` where the rows have weights."""

    loss_is_scaled_for_ga = False  # a mean over the batch: Trainer divides it by the accumulation steps

    def __init__(self, task: Task, **options: Any) -> None:
        super().__init__(**options)
        self.task = task
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of the batch; there are no outputs beside it (`predict` gives those)."""
        batch = {name: tensor for name, tensor in inputs.items() if name not in ("labels", WEIGHTS)}
        taught = cast(PreTrainedModel, model)
        if WEIGHTS in inputs:
            loss = weighted_loss(self.task, taught, batch, inputs["labels"], inputs[WEIGHTS])
        else:
            loss = self.task.batch_loss(taught, batch, inputs["labels"])
        return (loss, {}) if return_outputs else loss


def weighted_loss(
    task: Task,
    model: PreTrainedModel,
    batch: dict[str, Tensor],
    targets: Int[Tensor, " batch"],
    weights: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """`task.batch_loss` with each example's loss times its weight; what it is divided by does not know of weights.

    So a row of weight 2 pushes as two equal rows would, and weights of 1 change nothing.
    """
    if isinstance(task, TextTask):
        sums, tokens = task.token_sums(model, batch)
        return batch_mean(sums * weights, tokens, cast(Any, task).reduction)
    return (task.losses(model, batch, targets) * weights).mean()


class ShowProgress(TrainerCallback):
    """A bar with the time left, one unit a training step; `stack` closes it however the training ends."""

    def __init__(self, stack: ExitStack, title: str, show: bool | None) -> None:
        self.stack, self.title, self.show = stack, title, show
        self.advance: Advance = lambda _: None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar, now that the number of steps is known."""
        bar = progress_bar(self.title, state.max_steps, unit="steps", show=self.show)
        self.advance = self.stack.enter_context(bar)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move on by one step."""
        self.advance(1)


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    corpus: Corpus,
    targets: Sequence[int],
    arguments: TrainingArguments,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    title: str = "training",
    show: bool | None = None,
) -> PreTrainedModel:
    """Train `model` in place on the rows of `corpus`, as `arguments` say; return it in evaluation mode.

    An adapter comes back merged into its base, as a plain model.

    `targets` are the class numbers of the rows; rows of weight 0 are left out here.
    The process' own random state is the same afterwards as before.
    Raises RunError where the training diverged.
    """
    taught = corpus.taught()
    if taught is not corpus:
        targets = [target for target, weight in zip(targets, corpus.weights or (), strict=True) if weight]
    rows = EncodedRows(task.encode(tokenizer, list(taught)), targets, taught.weights)

    def collate(items: Sequence[Item]) -> dict[str, Tensor]:
        batch = task.collate([item["encoding"] for item in items], tokenizer)
        if taught.weights is not None:
            batch[WEIGHTS] = torch.tensor([item["weight"] for item in items], dtype=torch.float32)
        return batch | {"labels": torch.tensor([item["labels"] for item in items], dtype=torch.int64)}

    with ExitStack() as stack:
        stack.enter_context(_own_randomness())
        stack.enter_context(silence())
        trainer = TaskTrainer(
            task=task,
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=collate,
            processing_class=tokenizer,
            callbacks=[ShowProgress(stack, title, show), *callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        check_finite(cast(nn.Module, trainer.model))
        # Autocast wraps the model's forward: what is handed back computes in float32 again.
        trained = merged(trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False))
    trained.eval()  # type: ignore[no-untyped-call]
    return trained


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy and random inside, and put their state back after."""
    with _own_randomness():
        transformers.set_seed(seed)
        yield


@contextmanager
def _own_randomness() -> Iterator[None]:
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(array)


@contextmanager
def silence() -> Iterator[None]:
    """Hold back transformers' own lines and bars: ours says what matters."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
