"""What a proof will cost, before it is begun: a few real steps of the run's own training, and a multiplication."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

from headwater.remedies.arms import arms_of
from headwater.remedies.change import Change
from headwater.runs.run import Run
from headwater.runs.task import text_task
from headwater.training import retrain

_STEPS = 5


def retraining_seconds(run: Run) -> float:
    """Time a few steps of the run's recipe, and return how long one whole retraining takes. Raises RunError."""
    probe = _Probe()
    retrain(run, callbacks=[probe], show=False)
    return probe.whole


def trainings_of(run: Run, change: Change, seeds: int) -> int:
    """Return how many times a proof trains: every arm with each seed, and the repaired run itself."""
    return seeds * len(arms_of(change, run.corpus, 0, classes=text_task(run.task) is None)) + 1


class _Probe(TrainerCallback):
    """Stops a training after some steps; `whole` is how long all of it would have taken."""

    def __init__(self) -> None:
        self.started = self.began = time.monotonic()
        self.warm = 0.0
        self.whole = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Reading the model and the tokens is paid once."""
        self.began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """The first step warms up; the others are timed."""
        now, done, steps = time.monotonic(), int(state.global_step), max(int(state.max_steps), 1)
        if done == 1:
            self.warm = now
        each = (now - self.warm) / (done - 1) if done > 1 else now - self.began
        self.whole = (self.began - self.started) + each * steps
        control.should_training_stop = done >= _STEPS
        return control
