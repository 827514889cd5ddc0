"""One more optimizer step from a run's last checkpoint, on any row, taken and taken back.

The step is the training's own: its optimizer with the state it had (where the checkpoint kept it), its clipping, its
loss, and the last rate that was not 0: a schedule that ends at 0 would take a step of no length. Dropout is off.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headwater.errors import RunError, UsageError
from headwater.models.load import load_model
from headwater.runs import Run
from headwater.runs.corpus import Example
from headwater.runs.rates import RateLog
from headwater.training.fit import TaskTrainer, silence
from headwater.training.retrain import retrain_arguments
from headwater.training.trained import only_trained, rates_of


class OneStep:
    """The last checkpoint of a run (an adapter beside its base, not merged), ready to be trained on one row at a time.

    `learning_rate` None is the last one of the training that was not 0, in each of its groups. Raises RunError where
    the run has no recipe or no such rate, or its optimizer's state cannot be read; UsageError for a rate of 0 or less.
    """

    model: PreTrainedModel
    """In evaluation mode; between steps its weights are the checkpoint's, to the bit."""
    resumed: bool
    """Whether the optimizer goes on from its state; without it, Adam's first step moves every weight alike."""
    rates: tuple[float, ...]
    """Of each group of the optimizer."""

    def __init__(self, run: Run, *, learning_rate: float | None = None) -> None:
        if learning_rate is not None and not learning_rate > 0:
            raise UsageError(f"learning_rate must be above 0, not {learning_rate}.")
        self._run, self._checkpoint = run, run.checkpoints[-1]
        log = rates_of(run)
        self.model = load_model(self._checkpoint.path, run.task.auto, merge=False)
        self._trained = only_trained(self.model, run)
        with TemporaryDirectory(prefix="headwater-") as folder, silence():
            arguments = retrain_arguments(run, len(run.corpus), None, Path(folder), {})
            trainer = TaskTrainer(task=run.task, model=self.model, args=arguments)
            self._optimizer = trainer.create_optimizer()
        self._clip = float(arguments.max_grad_norm or 0.0)
        self.resumed = self._resume(self._checkpoint.path / "optimizer.pt")
        self.rates = self._set_rates(log, learning_rate)
        self._state = copy.deepcopy(self._optimizer.state_dict())
        self._weights = [parameter.detach().clone() for parameter in self._trained]
        self.model.eval()  # type: ignore[no-untyped-call]

    @contextmanager
    def on(self, row: Example) -> Iterator[PreTrainedModel]:
        """Inside, the model after one step on `row`; after it, the model as it was, whatever happened inside."""
        try:
            self._step(row)
            yield self.model
        finally:
            self._optimizer.zero_grad(set_to_none=True)
            self._optimizer.load_state_dict(copy.deepcopy(self._state))
            with torch.no_grad():
                for parameter, before in zip(self._trained, self._weights, strict=True):
                    parameter.copy_(before)

    def _step(self, row: Example) -> None:
        run = self._run
        targets = run.task.targets([row.label], self.model.config, where=run.corpus.name, rows=[row.row])
        batch = run.task.collate(run.task.encode(run.tokenizer, [row]), run.tokenizer)
        batch = {name: values.to(self.model.device) for name, values in batch.items()}
        with torch.enable_grad():
            loss: Tensor = run.task.batch_loss(self.model, batch, torch.tensor(targets, device=self.model.device))
            loss.backward()  # type: ignore[no-untyped-call]
        if self._clip > 0:
            nn.utils.clip_grad_norm_(self._trained, self._clip)
        self._optimizer.step()

    def _resume(self, path: Path) -> bool:
        if not path.is_file():
            return False
        try:
            self._optimizer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise RunError(f"{path}: does not fit the run's optimizer ({type(error).__name__}).") from error
        return True

    def _set_rates(self, log: RateLog | None, given: float | None) -> tuple[float, ...]:
        groups: list[dict[str, Any]] = self._optimizer.param_groups
        if given is not None:
            rates = [given] * len(groups)
        elif log is not None:
            steps = (self._checkpoint.step or log.first_step) - log.first_step + 1
            found = [[rate for rate in rates[:steps] if rate > 0] for rates in log.rates]
            rates = [rates[-1] for rates in found if rates]
        else:
            rates = [self._checkpoint.learning_rate or 0.0] * len(groups)
        if len(rates) != len(groups) or not all(rate > 0 for rate in rates):
            raise RunError(
                f"{self._run.folder}: the last learning rate of its training above 0 is not on record. "
                "Say one: learning_rate=."
            )
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        return tuple(rates)
