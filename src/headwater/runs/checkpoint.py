"""A checkpoint: weights on disk, and the share of the training that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from headwater.models.load import CLASSIFIER, load_config, load_model, model_fingerprint
from headwater.progress import stage


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a run.

    `weight` is what multiplies its dot products: the sum of the learning rates of the steps since the checkpoint
    before. `learning_rate` is the rate *at* the checkpoint, which a linear schedule ends at 0; it is only shown.
    """

    name: str
    path: Path
    step: int | None
    weight: float
    learning_rate: float | None
    auto: str = CLASSIFIER
    """The Auto class of transformers that loads it; the run's task names it."""

    def load(self, device: str | torch.device = "cpu") -> PreTrainedModel:
        """The model in float32 and evaluation mode; an adapter is merged into it. Raises ModelError."""
        stage(f"loading the model of {self.name}")
        return load_model(self.path, self.auto, device=device)

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The model's configuration, without its weights."""
        return load_config(self.path)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the weight files and the configuration."""
        return model_fingerprint(self.path)
