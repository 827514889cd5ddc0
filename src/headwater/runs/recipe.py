"""The recipe: all that is needed to train again as the run was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """`arguments` are TrainingArguments as JSON, without secrets and without paths of the machine they came from."""

    arguments: dict[str, Any]
    initial: Path
    """Folder with the weights, config and tokenizer that the training began from."""
    max_length: int | None
    seed: int
