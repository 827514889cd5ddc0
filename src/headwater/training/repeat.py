"""Many trainings of one run, each equal to `retrain` to the last bit, at less than the price.

What `retrain` does anew each time is done once: reading the weights, tokenizing, padding. The vocabulary is trimmed to
the texts (`trimmed`). The steps are Trainer's own, its sampler, optimizer, schedule and clipping, without what stands
around them (logging, checkpoints, callbacks). A recipe that asks for more than that is refused: `why_not_repeated`
says why, and `retrain` follows it.

For TextCNN there is also other arithmetic (`quick_textcnn`), whose results differ by rounding and cost less still.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainingArguments

from headwater.errors import UsageError
from headwater.models.load import load_model, load_tokenizer
from headwater.models.textcnn import TextCNN, TextCNNConfig
from headwater.runs.corpus import Corpus
from headwater.runs.recipe import portable_arguments
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets, text_task
from headwater.training.fit import TaskTrainer, seeded, silence
from headwater.training.guard import check_finite
from headwater.training.quick_textcnn import QuickTextCNN
from headwater.training.retrain import retrain_arguments
from headwater.training.trained import only_trained
from headwater.training.trimmed import TrimmedEmbedding, trim, why_not_trimmed

Arithmetic = Literal["exact", "quick"]
Check = Callable[[], None]
"""Called before every step; what it raises ends the training."""

_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")  # they work number by number
_PIECE_ROWS = 512  # of a matrix that the optimizer takes at a time
_FOLLOWED = frozenset(
    [
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "data_seed",
        "dataloader_drop_last",
        "label_smoothing_factor",
        "learning_rate",
        "length_column_name",
        "lr_scheduler_kwargs",
        "lr_scheduler_type",
        "max_grad_norm",
        "max_steps",
        "num_train_epochs",
        "optim",
        "optim_args",
        "per_device_train_batch_size",
        "seed",
        "train_sampling_strategy",
        "use_cpu",
        "warmup_ratio",
        "warmup_steps",
        "weight_decay",
    ]
)
_WITHOUT_EFFECT = frozenset(
    [
        "batch_eval_metrics",
        "bf16_full_eval",
        "disable_tqdm",
        "enable_jit_checkpoint",
        "fp16_full_eval",
        "greater_is_better",
        "ignore_data_skip",
        "label_names",
        "load_best_model_at_end",
        "metric_for_best_model",
        "per_device_eval_batch_size",
        "prediction_loss_only",
        "project",
        "remove_unused_columns",
        "report_to",
        "restore_callback_states_from_checkpoint",
        "resume_from_checkpoint",
        "skip_memory_metrics",
        "use_cache",
    ]
)
_WITHOUT_EFFECT_BEGIN = ("dataloader_pin", "do_", "eval_", "include_", "log_", "logging_", "save_", "trackio_")


class RepeatedTraining:
    """One run's training, ready to be repeated on parts of its corpus. A process' thread count decides the last bits.

    `texts` are what its models will be asked about: other texts may hold tokens that were trimmed (IndexError).
    Raises UsageError where `why_not_repeated` gives a reason, or for quick arithmetic of a model that has none.
    """

    def __init__(self, run: Run, *, texts: Sequence[Corpus] = (), arithmetic: Arithmetic = "exact") -> None:
        why = why_not_repeated(run) or (why_not_quick(run) if arithmetic == "quick" else "")
        if why:
            raise UsageError(f"{run.folder}: {why}")
        recipe = run.need_recipe()
        self.run, self.arithmetic = run, arithmetic
        self.tokenizer = load_tokenizer(recipe.initial)
        self._model = load_model(recipe.initial, run.task.auto)
        only_trained(self._model, run)
        self._targets = torch.tensor(corpus_targets(run.task, run.corpus, self._model.config), dtype=torch.int64)
        encodings = run.task.encode(self.tokenizer, list(run.corpus))
        self._items = [{"input_ids": encoding.input_ids, "row": row} for row, encoding in enumerate(encodings)]
        self._padded = run.task.collate(encodings, self.tokenizer)
        if not why_not_trimmed(self._model):
            for corpus in texts:
                encodings += run.task.encode(run.tokenizer, list(corpus))
            trim(self._model, {token for encoding in encodings for token in encoding.input_ids})
        if arithmetic == "quick":
            assert isinstance(self._model, TextCNN)
            self._model = QuickTextCNN.of(self._model)

    def train(
        self, rows: Sequence[int], *, seed: int | None = None, fresh: bool = False, check: Check | None = None
    ) -> PreTrainedModel:
        """Train on these rows of the run's corpus, in their order, as `retrain(run, rows=rows, seed=seed)` does.

        `fresh` begins from new random weights that follow from the seed, as `train` with that seed would (TextCNN
        only). The model comes back in evaluation mode. Raises RunError where the training diverged.
        """
        model = copy.deepcopy(self._model)
        if fresh:
            model.load_state_dict(self._fresh(self.run.need_recipe().seed if seed is None else seed))
        options = {"save_strategy": "no", **({"optim": self._quick_optimizer()} if self.arithmetic == "quick" else {})}
        with TemporaryDirectory(prefix="headwater-") as folder:
            arguments = retrain_arguments(self.run, len(rows), seed, Path(folder), options)
            with seeded(arguments.seed), silence():
                self._fit(model, rows, arguments, check or (lambda: None))
        check_finite(model)
        model.eval()  # type: ignore[no-untyped-call]
        return model

    def _fresh(self, seed: int) -> dict[str, Tensor]:
        """New weights, with the rows of the word vectors that were kept."""
        if not isinstance(self._model, TextCNN):
            raise UsageError(f"{self.run.folder}: {why_not_fresh(self.run)}")
        with seeded(seed):
            state = TextCNN(cast(TextCNNConfig, self._model.config)).state_dict()
        table = self._model.embedding
        if isinstance(table, TrimmedEmbedding):
            state["embedding.weight"] = state["embedding.weight"][table.kept]
        return state

    def _fit(self, model: PreTrainedModel, rows: Sequence[int], arguments: TrainingArguments, check: Check) -> None:
        trainer = TaskTrainer(
            task=self.run.task,
            model=model,
            args=arguments,
            train_dataset=_Rows([self._items[row] for row in rows]),
            data_collator=self._collate,
            processing_class=self.tokenizer,
        )
        batches: Any = trainer.get_train_dataloader()
        left = arguments.max_steps if arguments.max_steps > 0 else math.ceil(arguments.num_train_epochs * len(batches))
        trainer.create_optimizer_and_scheduler(left)
        optimizer, schedule = cast(Optimizer, trainer.optimizer), cast(LambdaLR, trainer.lr_scheduler)
        parameters, pieces = list(model.parameters()), _split(optimizer)
        model.train()
        for epoch in range(math.ceil(left / len(batches))):
            batches.set_epoch(epoch)
            for batch in batches:
                if not left:
                    return
                check()
                left -= 1
                targets = batch.pop("labels")
                self.run.task.batch_loss(model, batch, targets).backward()  # type: ignore[no-untyped-call]
                if arguments.max_grad_norm > 0:
                    nn.utils.clip_grad_norm_(parameters, arguments.max_grad_norm)
                for whole, parts in pieces:
                    for number, part in enumerate(parts):
                        start = number * _PIECE_ROWS
                        part.grad = None if whole.grad is None else whole.grad[start : start + _PIECE_ROWS]
                optimizer.step()
                schedule.step()
                model.zero_grad()

    def _collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """The batch that the task's own collate makes, cut out of the padded corpus."""
        rows = torch.tensor([item["row"] for item in items])
        longest = max(len(item["input_ids"]) for item in items)
        batch = {name: tensor[rows, :longest] for name, tensor in self._padded.items()}
        return batch | {"labels": self._targets[rows]}

    def _quick_optimizer(self) -> str:
        """AdamW in one pass over the numbers: the same steps, rounded elsewhere."""
        named = str(self.run.need_recipe().arguments.get("optim"))
        return "adamw_torch_fused" if named == "adamw_torch" else named


def why_not_repeated(run: Run) -> str:
    """Why this run must be trained by `retrain`; empty where `RepeatedTraining` gives the same bits.

    Raises RunError where the run cannot be trained again at all.
    """
    recipe = run.need_recipe()
    if run.corpus.weights is not None:
        return "its rows have weights, which Trainer itself follows."
    if text_task(run.task) is not None or not hasattr(getattr(run.task, "base", run.task), "label_smoothing"):
        return f"a {run.task.kind} task is trained by Trainer itself."
    if (recipe.initial / "adapter_config.json").is_file():
        return "it trains an adapter."
    with TemporaryDirectory(prefix="headwater-") as folder:
        arguments = retrain_arguments(run, len(run.corpus), None, Path(folder), {})
        if arguments.device.type != "cpu":
            return f"it is trained on {arguments.device.type}."
        usual, asked = portable_arguments(TrainingArguments(output_dir=folder)), recipe.arguments
    for name, value in asked.items():
        known = name in _FOLLOWED or name in _WITHOUT_EFFECT or name.startswith(_WITHOUT_EFFECT_BEGIN)
        if not known and value != usual.get(name):
            return f"its recipe asks for {name}={value!r}."
    if asked.get("optim") not in _OPTIMIZERS:
        return f"its optimizer is {asked.get('optim')}."
    return ""


def why_not_quick(run: Run) -> str:
    """Why there is no quick arithmetic for this run's model; empty where there is."""
    kind = run.checkpoints[-1].config.model_type
    return "" if kind == "headwater-textcnn" else f"quick arithmetic is for TextCNN; this model is {kind}."


def _split(optimizer: Optimizer) -> list[tuple[nn.Parameter, list[nn.Parameter]]]:
    """Let the optimizer see large matrices in pieces that share their memory; returns each with its pieces.

    AdamW goes over its numbers seven times: piece by piece they stay in the processor's cache, and no bit changes.
    """
    found = []
    for group in optimizer.param_groups:
        kept = []
        for whole in group["params"]:
            if whole.ndim < 2 or len(whole) <= _PIECE_ROWS:
                kept.append(whole)
                continue
            parts = [nn.Parameter(part) for part in whole.detach().split(_PIECE_ROWS)]
            found.append((whole, parts))
            kept += parts
        group["params"] = kept
    return found


def why_not_fresh(run: Run) -> str:
    """Why this run's model cannot begin from new random weights; empty where it can."""
    kind = run.checkpoints[-1].config.model_type
    return "" if kind == "headwater-textcnn" else f"only a TextCNN begins from random weights; this model is {kind}."


class _Rows(Dataset[dict[str, Any]]):
    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.items[place]
