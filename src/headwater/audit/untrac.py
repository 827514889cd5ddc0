"""UnTrac and UnTrac-Inv: what a source of data taught, found by unlearning it (Isonuma & Titov 2024, arXiv 2401.15241).

    UnTrac       w_i = w_(i-1) + step up the loss of rows of Z       I(Z) = mean_q [ loss(q; w_T) - loss(q; w_0) ]
    UnTrac-Inv   the same steps up the loss of the queries           I(Z) = sum_(z in Z) [ loss(z; w_T) - loss(z; w_0) ]

Positive: the source helped the queries. To first order, one full step of SGD is the inner product of the gradients of
both sides; Adam's first step divides each by its size, as training with Adam does. The steps go from the last
checkpoint, move what the training moved (an adapter, where that is what was trained), with a constant rate, without
clipping or weight decay, and with dropout off, so that two calls give the same bits; the authors leave it on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headwater.errors import UsageError
from headwater.evaluation.bank.outputs import measure
from headwater.models.load import load_model
from headwater.progress import progress_bar
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets
from headwater.training.trained import only_trained

MOST_RISE = 5.0  # nats: when what is watched has risen so far, the model is broken rather than taught otherwise
_LOOKS = 5  # how often what is watched is measured on the way


@dataclass(frozen=True)
class Unlearning:
    """How to unlearn. `batch` and `steps` None: UnTrac takes one row a step, each once; Inv all queries, five times."""

    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 5e-5
    batch: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for what is no step."""
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate must be above 0, not {self.learning_rate}.")
        for name in ("batch", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be 1 or more, not {value}.")


@dataclass(frozen=True)
class Unlearned:
    """A source's influence, and how it came about: (steps, influence so far)."""

    influence: float
    trajectory: tuple[tuple[int, float], ...]
    rows: int
    """Rows that were unlearned (UnTrac), or asked (Inv)."""
    stopped: bool = False
    """Whether the loss rose so far that the steps were broken off."""


class Unlearner:
    """The last checkpoint of a run, stepped up some loss and put back, bit for bit."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model: PreTrainedModel = load_model(run.checkpoints[-1].path, run.task.auto, merge=False)
        self._trained = only_trained(self.model, run)
        self._before = [parameter.detach().clone() for parameter in self._trained]
        self.model.eval()  # type: ignore[no-untyped-call]

    def untrac(
        self,
        sources: Mapping[str, Corpus],
        queries: Corpus,
        how: Unlearning,
        *,
        seed: int = 0,
        show: bool | None = None,
    ) -> dict[str, Unlearned]:
        """Unlearn each source by itself, and see what that does to the queries' mean loss (nats)."""
        found = {}
        before = self._mean(queries)
        steps = {name: how.steps or math.ceil(len(rows) / (how.batch or 1)) for name, rows in sources.items()}
        with progress_bar("UnTrac", sum(steps.values()), unit="steps", show=show) as advance:
            for name, rows in sources.items():
                order = np.random.default_rng(seed).permutation(len(rows)).tolist()
                told, stopped = self._ascend(
                    rows, order, steps[name], how, how.batch or 1, lambda: self._mean(queries) - before, advance
                )
                found[name] = Unlearned(told[-1][1], told, min(len(rows), steps[name] * (how.batch or 1)), stopped)
        return found

    def inverse(
        self, sources: Mapping[str, Corpus], queries: Corpus, how: Unlearning, *, show: bool | None = None
    ) -> dict[str, Unlearned]:
        """Unlearn the queries once, and see what that does to the mean loss of each source's rows (nats a row)."""
        steps, batch = how.steps or 5, how.batch or len(queries)
        before = {name: self._mean(rows) for name, rows in sources.items()}
        told: dict[str, list[tuple[int, float]]] = {name: [] for name in sources}
        number = 0

        def look() -> float:
            nonlocal number
            number += 1
            rises = {name: self._mean(rows) - before[name] for name, rows in sources.items()}
            for name, rise in rises.items():
                told[name].append((number, rise))
            return max(rises.values())

        with progress_bar("UnTrac-Inv", steps, unit="steps", show=show) as advance:
            _, stopped = self._ascend(queries, list(range(len(queries))), steps, how, batch, look, advance, looks=steps)
        return {name: Unlearned(each[-1][1], tuple(each), len(sources[name]), stopped) for name, each in told.items()}

    def _ascend(
        self,
        rows: Corpus,
        order: Sequence[int],
        steps: int,
        how: Unlearning,
        batch: int,
        look: Callable[[], float],
        advance: Callable[[int], None],
        *,
        looks: int = _LOOKS,
    ) -> tuple[tuple[tuple[int, float], ...], bool]:
        """Take the steps; measure on the way; put the weights back whatever happens."""
        optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(self._trained, lr=how.learning_rate, maximize=True)
            if how.optimizer == "adam"
            else torch.optim.SGD(self._trained, lr=how.learning_rate, maximize=True)
        )
        at = {max(1, round(steps * part / looks)) for part in range(1, looks + 1)}
        told: list[tuple[int, float]] = []
        try:
            for step in range(steps):
                first = step * batch % len(order)
                chosen = [order[(first + place) % len(order)] for place in range(min(batch, len(order)))]
                optimizer.zero_grad(set_to_none=True)
                self._loss(rows, chosen).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                advance(1)
                if step + 1 in at:
                    told.append((step + 1, look()))
                    if not told[-1][1] < MOST_RISE:
                        return tuple(told), step + 1 < steps
        finally:
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                for parameter, before in zip(self._trained, self._before, strict=True):
                    parameter.copy_(before)
        return tuple(told), False

    def _loss(self, rows: Corpus, chosen: Sequence[int]) -> Tensor:
        run = self.run
        examples = [rows[row] for row in chosen]
        targets = corpus_targets(run.task, rows.take(list(chosen)), self.model.config)
        batch = run.task.collate(run.task.encode(run.tokenizer, examples), run.tokenizer)
        with torch.enable_grad():
            loss: Tensor = run.task.batch_loss(self.model, batch, torch.tensor(targets))
        return loss

    def _mean(self, rows: Corpus) -> float:
        return float(measure(self.model, self.run, rows).losses.mean(dtype=np.float64))

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """What is moved: what the training moved."""
        return self._trained
