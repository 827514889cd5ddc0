"""What a training can be told. One dataclass for the Python API and the command line: `help` is what both show."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import SchedulerType, TrainingArguments

from headwater.errors import HeadwaterWarning, UsageError

TEXTCNN = "textcnn"
_NEVER = 1_000_000_000  # save_steps beyond any training: only the end is saved
OPTIMIZERS = {"adamw": "adamw_torch", "sgd": "sgd"}
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
DEVICES = ("auto", "cpu", "cuda")


def _setting(default: Any, sentence: str) -> Any:
    return field(default=default, metadata={"help": sentence})


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of `train`. None means: what suits the kind of model.

    Raises UsageError where a value makes no sense.
    """

    model: str = _setting(
        "minilm",
        "What to train: 'minilm', 'smollm2' (a language model), 'textcnn' (from scratch), a folder of "
        "save_pretrained, or 'hub:owner/name'.",
    )
    epochs: float | None = _setting(None, "How often every row is seen; 2 for fine-tuning and 8 for textcnn if unset.")
    learning_rate: float | None = _setting(
        None, "Highest learning rate; 5e-5 for fine-tuning, 2e-4 with --lora and 1e-3 for textcnn if unset."
    )
    batch_size: int = _setting(32, "Rows a training step.")
    max_length: int | None = _setting(
        None, "Texts are cut to this many tokens; 128 if unset, or less where the model reads less."
    )
    seed: int = _setting(0, "Seed of new weights, of the order of the rows and of dropout.")
    checkpoints: int = _setting(2, "How many checkpoints to keep, evenly spaced; the last is the trained model.")
    schedule: str = _setting("linear", f"How the learning rate goes on: {', '.join(SCHEDULES)}.")
    warmup: float = _setting(0.1, "Share of the steps in which the learning rate rises from 0.")
    weight_decay: float = _setting(0.0, "Decay of the weights (decoupled, in AdamW).")
    optimizer: str = _setting("adamw", "'adamw', or 'sgd' with momentum.")
    momentum: float = _setting(0.9, "Momentum of 'sgd'.")
    labels: tuple[str, ...] | None = _setting(
        None, "The labels in the order of the model's outputs; sorted by name if unset."
    )
    vocabulary: int = _setting(25_000, "Most entries of the vocabulary that textcnn learns from the corpus.")
    freeze: tuple[str, ...] | None = _setting(
        None, "Parameters that stay as they are: 'word-embeddings', or a glob on their names."
    )
    bf16: bool = _setting(
        False, "Compute in bfloat16 where that is safe (autocast): about a third faster, with AVX-512 or CUDA."
    )
    lora: bool = _setting(False, "Train a LoRA adapter (needs headwater[lora]); the model itself stays as it is.")
    lora_rank: int = _setting(8, "Rank of the adapter's matrices.")
    lora_alpha: float = _setting(16.0, "Scale of the adapter: its product is multiplied by alpha / rank.")
    lora_dropout: float = _setting(0.0, "Dropout before the adapter, from 0 to below 1.")
    lora_targets: tuple[str, ...] | None = _setting(
        None, "Module that gets an adapter, as the model calls it; if unset, peft's choice for the architecture."
    )
    device: str = _setting("auto", "'cpu', 'cuda', or 'auto': cuda where there is one.")

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "max_length", "batch_size", "checkpoints", "vocabulary", "lora_rank"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be above 0, not {value}.")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup is a share of the steps, from 0 to below 1, not {self.warmup}.")
        if not 0 <= self.lora_dropout < 1:
            raise UsageError(f"lora_dropout is a share, from 0 to below 1, not {self.lora_dropout}.")
        if self.lora and self.from_scratch:
            raise UsageError("lora changes a model that is trained already; textcnn is trained from scratch.")
        if self.lora and self.freeze:
            raise UsageError("lora freezes the whole model by itself: leave freeze out.")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed must be a whole number from 0 to 2^32 - 1, not {self.seed}.")
        for name, known in (("schedule", SCHEDULES), ("optimizer", tuple(OPTIMIZERS)), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}.")

    @property
    def from_scratch(self) -> bool:
        """Whether the model starts from random weights."""
        return self.model == TEXTCNN


def training_arguments(
    settings: TrainSettings, out: Path, rows: int, *, label_smoothing: float = 0.0
) -> TrainingArguments:
    """Say `settings` for `rows` rows in transformers' words: the recipe on disk is one that Trainer understands."""
    scratch = settings.from_scratch
    epochs = settings.epochs or (8.0 if scratch else 2.0)
    rate = settings.learning_rate or (1e-3 if scratch else 2e-4 if settings.lora else 5e-5)
    steps = math.ceil(math.ceil(rows / settings.batch_size) * epochs)
    return TrainingArguments(
        output_dir=str(out),
        num_train_epochs=epochs,
        learning_rate=rate,
        per_device_train_batch_size=settings.batch_size,
        lr_scheduler_type=SchedulerType(settings.schedule),
        # Trainer rounds up, and a warm-up begins at rate 0: a training of one step would not move at all.
        warmup_steps=settings.warmup if settings.warmup * steps >= 1 else 0,
        weight_decay=settings.weight_decay,
        label_smoothing_factor=label_smoothing,  # the task's: its own loss is the one computed
        optim=OPTIMIZERS[settings.optimizer],
        optim_args=f"momentum={settings.momentum}" if settings.optimizer == "sgd" else None,
        seed=settings.seed,
        save_strategy="steps",
        # A share of the steps, so that a retraining on fewer rows keeps as many checkpoints; Trainer saves the end.
        save_steps=1 / settings.checkpoints if settings.checkpoints > 1 else _NEVER,
        logging_strategy="steps",
        logging_steps=0.05,
        train_sampling_strategy="group_by_length",
        use_cpu=_on_cpu(settings),
        bf16=settings.bf16,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def has_bf16() -> bool:
    """Whether the device that is trained on by default computes in bfloat16; others emulate it, and very slowly."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return str(torch.backends.cpu.get_cpu_capability()).startswith("AVX512")


def _on_cpu(settings: TrainSettings) -> bool:
    """Settle where to train, or raise UsageError: Trainer itself would take any accelerator, or fail halfway."""
    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise UsageError("device 'cuda': torch finds no CUDA device here. Use --device cpu.")
    if settings.device == "cpu" or not there:
        if settings.bf16 and not has_bf16():
            warnings.warn("bf16: this CPU has no instructions for it, so that it takes many times as long as without.",
                          HeadwaterWarning, stacklevel=4)  # fmt: skip
        return True
    if settings.bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UsageError("bf16: this GPU does not compute in bfloat16. Leave it out.")
    return False
