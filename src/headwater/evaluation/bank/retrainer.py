"""One retraining after another in this process: rows and a seed in, what the model says of the queries out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import TrainerCallback

from headwater.evaluation.bank.outputs import Outputs, measure
from headwater.evaluation.metrics.word_deletion import Edit, edited
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.training import retrain
from headwater.training.repeat import Arithmetic, RepeatedTraining, why_not_repeated


class Retrainer:
    """Retrains a run and asks about the queries. The same rows and seed always give the same bits.

    That holds whatever was trained before, and in which process: the number of threads is always the same, and each
    training seeds its own randomness. Raises UsageError for quick arithmetic of a model that has none.
    """

    def __init__(
        self, run: Run, queries: Corpus, *, arithmetic: Arithmetic = "exact", fresh: bool = False, threads: int = 1
    ) -> None:
        self.run, self.queries, self.fresh, self.threads = run, queries, fresh, threads
        self.arithmetic: Arithmetic = arithmetic
        self._cut: tuple[Edit, Retrainer] | None = None
        self._repeated: RepeatedTraining | None = None
        with _threads(threads):
            if arithmetic == "quick" or fresh or not why_not_repeated(run):
                self._repeated = RepeatedTraining(run, texts=[queries], arithmetic=arithmetic)

    def __call__(
        self, rows: Sequence[int], seed: int, *, edit: Edit = (), check: Callable[[], None] = lambda: None
    ) -> tuple[Outputs, float]:
        """Retrain on `rows` and ask; the seconds it took come too. `check` is called before every step, and may raise.

        `edit`: words that are cut out of the texts first. Raises RunError where the training diverged.
        """
        started = time.monotonic()
        if edit:
            outputs, _ = self._edited(edit)(rows, seed, check=check)
            return outputs, time.monotonic() - started
        with _threads(self.threads):
            if self._repeated is not None:
                model = self._repeated.train(rows, seed=seed, fresh=self.fresh, check=check)
            else:
                model = retrain(self.run, rows=rows, seed=seed, callbacks=[_Checks(check)], show=False)
            return measure(model, self.run, self.queries), time.monotonic() - started

    def _edited(self, edit: Edit) -> Retrainer:
        """What retrains on the edited texts; the seeds of an edit follow each other, so the last one is kept."""
        if self._cut is None or self._cut[0] != edit:
            run = replace(self.run, corpus=edited(self.run.corpus, edit))
            made = Retrainer(run, self.queries, arithmetic=self.arithmetic, fresh=self.fresh, threads=self.threads)
            self._cut = edit, made
        return self._cut[1]


class _Checks(TrainerCallback):
    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.check()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
