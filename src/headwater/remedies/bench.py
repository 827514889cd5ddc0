"""Retraining the arms of a proof, within a time: each one's answers are a file, so that a killed proof goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from headwater.errors import RunError
from headwater.files import atomic_file, canonical_json, digest, read_json, remove_leftovers, write_json
from headwater.remedies.arms import Arm, arms_of, stratified
from headwater.remedies.change import Change
from headwater.remedies.exam import Answers as Array
from headwater.remedies.exam import Exam
from headwater.remedies.measure import CLASSES
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.training import retrain

_LEAST_SHARE = 0.02  # of the rows; less says nothing of the whole
_SAFETY = 1.15  # what was timed once may take longer
_LOOK = 0.25  # of the time for one arm: what has not come so far is given up, and fewer rows are taken

Say = Callable[[str], None]


@dataclass(frozen=True)
class Answers:
    """What was retrained: of each arm, of each seed, what its model answered about the test rows."""

    arms: dict[str, list[Array]]
    seeds: tuple[int, ...]
    rows: int
    """Training rows that the arms began from: all, or a stratified part."""
    of: int
    trained: int
    """Retrainings of this call; the others were there."""
    notes: tuple[str, ...]


class _Late(Exception):  # noqa: N818  not an error: it carries how many seconds the whole training would take
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class Bench:
    """Trains arms of one run and examines them. `folder` keeps what is finished."""

    def __init__(self, run: Run, change: Change, exam: Exam, folder: Path, *, show: bool | None = None) -> None:
        self.run, self.change, self.exam, self.folder, self.show = run, change, exam, folder, show
        self.trained = 0
        self.classes = exam.measure is CLASSES
        recipe, test = run.need_recipe(), exam.test
        self._base = digest([canonical_json(recipe.arguments), canonical_json(run.task.to_json()), test.fingerprint])
        if folder.is_dir():
            remove_leftovers(folder)

    def all_arms(self, seeds: Sequence[int], *, began: float, budget: float | None, say: Say) -> Answers:
        """Train every arm with every seed, or as many seeds, and at need as many rows, as the time allows.

        A seed counts when all its arms are there. Nothing is begun after `began` (time.monotonic()) + `budget`. Raises
        RunError where the time was over before the first seed was whole.
        """
        rows, notes = list(range(len(self.run.corpus))), []
        until = None if budget is None else began + budget
        if until is not None:
            share = self._settled_share(seeds[0], until, budget or 0.0)
            if share < 1:
                rows = stratified(self.run.corpus, self.change, share, classes=self.classes)
                notes.append(
                    f"The time did not suffice for all rows: every arm is trained on a stratified subset, "
                    f"{len(rows):,} of {len(self.run.corpus):,} rows ({100 * len(rows) / len(self.run.corpus):.0f}%), "
                    "so this verdict is of the subset."
                )
                say(notes[-1])
        found: dict[str, list[Array]] = {}
        done: list[int] = []
        longest = 0.0
        for seed in seeds:
            started, before = time.monotonic(), self.trained
            if until is not None and done and started + longest * _SAFETY > until:
                break
            answers = self._one_seed(seed, rows, until)
            if answers is None:
                break
            if self.trained > before:
                longest = max(longest, time.monotonic() - started)
            done.append(seed)
            for name, array in answers.items():
                found.setdefault(name, []).append(array)
        if not done:
            raise RunError(
                f"{self.folder}: the time was over before every arm was trained once. What is finished is kept: run "
                "the same command again, or give more --budget."
            )
        if len(done) < len(seeds):
            notes.append(f"The time sufficed for {len(done)} of {len(seeds)} seeds.")
        return Answers(found, tuple(done), len(rows), len(self.run.corpus), self.trained, tuple(notes))

    def _one_seed(self, seed: int, rows: Sequence[int], until: float | None) -> dict[str, Array] | None:
        base, change = self._part(rows)
        found = {}
        arms = arms_of(change, base, seed, classes=self.classes)
        for number, arm in enumerate(arms, 1):
            path = self._path(arm, base, seed)
            if until is not None and time.monotonic() >= until and not path.is_file():
                return None
            found[arm.name] = self._answer(arm, base, seed, f"seed {seed}, {arm.name} ({number} of {len(arms)})")
        return found

    def _part(self, rows: Sequence[int]) -> tuple[Corpus, Change]:
        if len(rows) == len(self.run.corpus):
            return self.run.corpus, self.change
        return self.run.corpus.take(rows), self.change.within(rows)

    def _settled_share(self, seed: int, until: float, budget: float) -> float:
        """As `_share`, but a proof that goes on with no more time than before keeps its rows."""
        path = self.folder / "share.json"
        if path.is_file():
            saved = read_json(path)
            if budget <= saved["budget"]:
                return float(saved["share"])
        share = self._share(seed, until)
        if share < 1:
            write_json(path, {"share": share, "budget": budget})
        return share

    def _share(self, seed: int, until: float) -> float:
        """Train the untouched arm, or as much of it as is needed to see how long it takes; the share that fits."""
        corpus = self.run.corpus
        arms = arms_of(self.change, corpus, seed, classes=self.classes)
        left = [arm for arm in arms if not self._path(arm, corpus, seed).is_file()]
        if not left:
            return 1.0
        started = time.monotonic()
        each = (until - started) / len(left)
        try:
            self._answer(left[0], corpus, seed, f"seed {seed}, {left[0].name}", callbacks=[_Looks(started, each)])
        except _Late as late:
            remaining = max(until - time.monotonic(), 0.0)
            return max(_LEAST_SHARE, min(0.95, remaining / (late.seconds * len(arms) * _SAFETY)))
        return 1.0

    def _answer(
        self, arm: Arm, base: Corpus, seed: int, title: str, callbacks: Sequence[TrainerCallback] = ()
    ) -> Array:
        path = self._path(arm, base, seed)
        if path.is_file():
            try:
                kept: Array = np.load(path, allow_pickle=False)
            except (ValueError, EOFError, OSError):
                path.unlink()
            else:
                return kept
        corpus = arm.change.apply(base)
        run = self.run if base is self.run.corpus else replace(self.run, corpus=base)
        model = retrain(run, corpus=corpus, seed=seed, callbacks=callbacks, title=title, show=self.show)
        found = self.exam.ask(model)
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, found, allow_pickle=False)
        self.trained += 1
        return found

    def _path(self, arm: Arm, base: Corpus, seed: int) -> Path:
        """Named by all that decides the answers: base rows (for the number of steps), the arm's rows, recipe, test."""
        corpus = arm.change.apply(base)
        name = digest([self._base, base.fingerprint, corpus.fingerprint])
        return self.folder / f"{name}-{seed}.npy"


class _Looks(TrainerCallback):
    """Gives a training up that will not end in its time, as soon as that can be seen."""

    def __init__(self, started: float, seconds: float) -> None:
        self.started, self.seconds = started, seconds
        self.first = started  # step: what comes before it (reading the model, tokenizing) is paid once

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Note when the steps begin."""
        self.first = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Compare the time gone with the steps done."""
        now, done = time.monotonic(), state.global_step / max(state.max_steps, 1)
        whole = self.first - self.started + (now - self.first) / done
        if now - self.started > _LOOK * self.seconds and whole > self.seconds:
            raise _Late(whole)
