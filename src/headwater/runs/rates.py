"""The learning rates of a training, and what they make of a checkpoint: its weight.

    weight_c = sum of the rates of the steps after checkpoint c-1, up to checkpoint c

"The checkpoint before" is the one before among those that still exist: the steps of a deleted checkpoint count to the
next that was kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from headwater.errors import RunError
from headwater.files import read_json, write_json

ASK_FOR_WEIGHTS = "Say the weights: Run.create(folder, checkpoints=[(path, weight), ...], corpus=, task=)."

_FORMAT = 1


@dataclass(frozen=True)
class Weights:
    """Per checkpoint, its weight and the rate at it; `warning` is empty unless other weights were possible."""

    weights: list[float]
    rates: list[float | None]
    warning: str = ""


@dataclass
class RateLog:
    """What Recorder writes down of each optimizer group, growing by one rate a step.

    `rates[g][i]` is the rate of group g in step `first_step + i` (steps count from 1); 0 where mixed precision
    skipped the step. `embedding_group` holds the input embedding matrix; where none does, it is 0.
    """

    parameters: list[list[str]]
    """Per group, parameter names in the optimizer's order."""
    embedding_group: int
    first_step: int = 1
    rates: list[list[float]] = field(default_factory=list)
    saved: dict[int, float | None] = field(default_factory=dict)
    """Step of each checkpoint saved -> the rate at it, which is that of the step after; None where not recorded."""

    def __post_init__(self) -> None:
        self.rates = self.rates or [[] for _ in self.parameters]

    def weights(self, steps: Sequence[int]) -> Weights:
        """The weights of the checkpoints at these steps, ascending; 0 where the first steps were not recorded."""
        if self.first_step > 1:
            return Weights([0.0] * len(steps), [self.saved.get(step) for step in steps])
        rates = self.rates[self.embedding_group]
        return Weights(sums_between(rates, steps), [self.saved.get(step) for step in steps])

    def back_to(self, step: int) -> None:
        """Forget what came after `step`: the training goes on from there."""
        for rates in self.rates:
            del rates[step - self.first_step + 1 :]
        self.saved = {saved: rate for saved, rate in self.saved.items() if saved <= step}

    def write(self, path: Path) -> None:
        """Write rates.json; groups of equal rates share one list."""
        distinct: list[list[float]] = []
        for rates in self.rates:
            if rates not in distinct:
                distinct.append(rates)
        groups = [
            {"parameters": names, "rates": distinct.index(rates)}
            for names, rates in zip(self.parameters, self.rates, strict=True)
        ]
        content = {
            "format": _FORMAT,
            "first_step": self.first_step,
            "embedding_group": self.embedding_group,
            "groups": groups,
            "rates": distinct,
            "saved": {str(step): rate for step, rate in self.saved.items()},
        }
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> RateLog:
        """Read what `write` wrote. Raises RunError."""
        content: dict[str, Any] = read_json(path)
        try:
            if content["format"] > _FORMAT:
                raise RunError(f"{path}: format {content['format']}, newer than this Headwater knows. Upgrade it.")
            return cls(
                parameters=[group["parameters"] for group in content["groups"]],
                embedding_group=content["embedding_group"],
                first_step=content["first_step"],
                rates=[list(content["rates"][group["rates"]]) for group in content["groups"]],
                saved={int(step): rate for step, rate in content["saved"].items()},
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RunError(f"{path}: damaged ({type(error).__name__}: {error}). {ASK_FOR_WEIGHTS}") from error


def sums_between(rates: Sequence[float], stops: Sequence[int]) -> list[float]:
    """The sum of the rates before each stop and after the one before it."""
    return [math.fsum(rates[start:stop]) for start, stop in pairwise([0, *stops])]
