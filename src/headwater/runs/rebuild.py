"""The learning rates of a training that nobody recorded, rebuilt from what a plain Trainer folder holds.

transformers' schedules (constant, linear, cosine, each with warm-up) are tried on all points that are known: the
scheduler.pt of each checkpoint and the logged rates. Of several that meet all of them, the one that training_args.bin
names is taken, else the plainest, with a warning if that matters. A rate that nothing supports is never guessed: that
is an error which asks for the weights.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from headwater.errors import RunError
from headwater.files import read_json
from headwater.runs.arguments import ScheduleHint, schedule_hint
from headwater.runs.rates import ASK_FOR_WEIGHTS, Weights, sums_between

_CLOSE = 1e-6  # relative: rates are double precision, and a schedule's formula reproduces them almost exactly
_ZERO = 1e-9  # of the base rate: below it a rate counts as zero
_DIFFERENT = 0.01  # of all weight: schedules that differ by more give different answers

Schedule = Callable[[Any, Any, int], Any]
"""(index of the step from 0, warm-up steps, steps in all) -> share of the base rate; broadcasts."""


def _constant(index: Any, warmup: Any, total: int) -> Any:
    return np.where(index < warmup, index / np.maximum(1, warmup), 1.0)


def _linear(index: Any, warmup: Any, total: int) -> Any:
    falling = np.maximum(0.0, (total - index) / np.maximum(1, total - warmup))
    return np.where(index < warmup, index / np.maximum(1, warmup), falling)


def _cosine(index: Any, warmup: Any, total: int) -> Any:
    progress = (index - warmup) / np.maximum(1, total - warmup)
    falling = np.maximum(0.0, 0.5 * (1.0 + np.cos(np.pi * progress)))
    return np.where(index < warmup, index / np.maximum(1, warmup), falling)


SCHEDULES: dict[str, Schedule] = {"constant": _constant, "linear": _linear, "cosine": _cosine}
_NAMED = {"constant": "constant", "constant_with_warmup": "constant", "linear": "linear", "cosine": "cosine"}


@dataclass(frozen=True)
class Points:
    """What is known of a training's rates: at which scheduler step each checkpoint stands, and some rates."""

    stops: list[int]
    """Per checkpoint, the number of scheduler steps before it."""
    total: int
    """Steps that the training was planned for."""
    base: float | None
    """The rate that the schedule multiplies, if scheduler.pt says it."""
    saved: list[tuple[int, float]]
    """(scheduler step, rate of the optimizer step after it), from scheduler.pt."""
    logged: list[tuple[int, float]]
    """(global step, rate) from log_history."""
    shifts: tuple[int, ...]
    """What a logged rate may be: 1, the rate of that step; 0, of the next one, as transformers before 5 had it."""


@dataclass(frozen=True)
class Fit:
    """A schedule that meets every known point."""

    name: str
    warmup: int
    base: float
    total: int

    def rates(self, count: int) -> Float[np.ndarray, " steps"]:
        """The rates of the first `count` steps."""
        return np.asarray(self.base * SCHEDULES[self.name](np.arange(count), self.warmup, self.total))

    def __str__(self) -> str:
        return f"{self.name} with {self.warmup} warm-up steps" if self.warmup else self.name


def rebuilt_weights(checkpoints: Sequence[Path]) -> Weights:
    """The weights of a plain Trainer folder's checkpoints, in the order of their steps. Raises RunError."""
    points = _read_points(checkpoints)
    hint = schedule_hint(checkpoints[-1])
    fits = _fits(points)
    if not fits or (hint.name is not None and hint.name not in _NAMED):
        raise RunError(
            f"{checkpoints[-1].parent}: the learning rates are not those of a constant, linear or cosine schedule, "
            f"so they cannot be rebuilt. {ASK_FOR_WEIGHTS}"
        )
    fits = _agreeing(fits, hint)
    chosen = fits[0]
    rates = chosen.rates(points.stops[-1])
    at = [float(chosen.rates(stop + 1)[-1]) for stop in points.stops]
    return Weights(sums_between(rates.tolist(), points.stops), list(at), _doubt(fits, points))


def _read_points(checkpoints: Sequence[Path]) -> Points:
    stops, saved, bases = [], [], set()
    for checkpoint in checkpoints:
        state = _trainer_state(checkpoint)
        scheduler = _scheduler(checkpoint)
        stops.append(int(state["global_step"]) if scheduler is None else int(scheduler["last_epoch"]))
        if scheduler is not None:
            bases |= set(scheduler["base_lrs"])
            saved.append((stops[-1], float(scheduler["_last_lr"][0])))
    if len(bases) > 1:
        rates = ", ".join(f"{base:g}" for base in sorted(bases))
        raise RunError(f"{checkpoints[-1]}: parameters were trained at different rates ({rates}). {ASK_FOR_WEIGHTS}")
    last = _trainer_state(checkpoints[-1])
    skipped = stops[-1] != last["global_step"]  # mixed precision may skip a step: then logs follow another clock
    logged = [] if skipped else _logged_rates(last)
    if not saved and not logged:
        raise RunError(
            f"{checkpoints[-1]}: neither scheduler.pt nor a logged learning rate is there, so the weights of the "
            f"checkpoints are not known. {ASK_FOR_WEIGHTS}"
        )
    base = bases.pop() if bases else None
    return Points(stops, int(last["max_steps"]), base, saved, logged, _shifts(checkpoints[-1]))


def _trainer_state(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "trainer_state.json"
    if not path.is_file():
        raise RunError(f"{path}: no such file, so the weight of this checkpoint is not known. {ASK_FOR_WEIGHTS}")
    state = read_json(path)
    if not isinstance(state, dict) or not {"global_step", "max_steps", "log_history"} <= set(state):
        raise RunError(f"{path}: not a Trainer's state. {ASK_FOR_WEIGHTS}")
    return state


def _logged_rates(state: dict[str, Any]) -> list[tuple[int, float]]:
    entries = [entry for entry in state["log_history"] if "learning_rate" in entry and "step" in entry]
    return [(int(entry["step"]), float(entry["learning_rate"])) for entry in entries]


def _shifts(checkpoint: Path) -> tuple[int, ...]:
    path = checkpoint / "config.json"
    version = read_json(path).get("transformers_version", "") if path.is_file() else ""
    major = str(version).partition(".")[0]
    return (1,) if major.isdigit() and int(major) >= 5 else (1, 0)


def _scheduler(checkpoint: Path) -> dict[str, Any] | None:
    """The state of a LambdaLR; None where none was saved. Raises RunError for another kind of scheduler."""
    path = checkpoint / "scheduler.pt"
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"{path}: cannot be read without running code from it ({reason}). {ASK_FOR_WEIGHTS}") from None
    if not isinstance(state, dict) or not {"base_lrs", "last_epoch", "_last_lr"} <= set(state):
        raise RunError(f"{path}: not a schedule of steps alone, so its rates cannot be rebuilt. {ASK_FOR_WEIGHTS}")
    return state


def _fits(points: Points) -> list[Fit]:
    """Every schedule that meets all points: without warm-up first, then by the length of the warm-up."""
    found: dict[tuple[str, int], Fit] = {}
    for shift in points.shifts:
        logged = [(step - shift, rate) for step, rate in points.logged]
        index, rates = (np.array(part) for part in zip(*(points.saved + logged), strict=True))
        for name, schedule in SCHEDULES.items():
            for warmup, base in _meeting(schedule, index, rates, points):
                found.setdefault((name, warmup), Fit(name, warmup, base, points.total))
    plain = list(SCHEDULES)
    return sorted(found.values(), key=lambda fit: (fit.warmup, plain.index(fit.name)))


def _agreeing(fits: list[Fit], hint: ScheduleHint) -> list[Fit]:
    """Those that training_args.bin names; all, where it names none of them (a schedule passed by hand)."""
    warmup = 0 if hint.name == "constant" else hint.warmup(fits[0].total)
    if hint.name is not None:
        named = [fit for fit in fits if fit.name == _NAMED[hint.name]]
        warmed = [fit for fit in named if fit.warmup == warmup]
        return warmed or named or fits
    return fits


def _meeting(
    schedule: Schedule, index: Int[np.ndarray, " points"], rates: Float[np.ndarray, " points"], points: Points
) -> Iterator[tuple[int, float]]:
    """(warm-up steps, base rate) of each variant of `schedule` that meets all points."""
    top = int(np.argmax(rates))
    warmup = np.arange(max(1, points.total))
    if points.base is None:
        share = schedule(index[top], warmup, points.total)
        warmup, share = warmup[share > 0], share[share > 0]
        bases = rates[top] / share
    else:
        bases = np.full(len(warmup), points.base)
    order = np.argsort(rates, kind="stable")  # a few telling points first: they leave few variants for the rest
    first = np.unique(np.concatenate([order[:2], order[-2:], [0, len(rates) - 1]]))
    for chosen in (first, np.arange(len(rates))):
        met = _met(schedule, index[chosen], rates[chosen], warmup, bases, points.total)
        warmup, bases = warmup[met], bases[met]
    yield from zip(warmup.tolist(), bases.tolist(), strict=True)


def _met(
    schedule: Schedule,
    index: Int[np.ndarray, " points"],
    rates: Float[np.ndarray, " points"],
    warmup: Int[np.ndarray, " variants"],
    bases: Float[np.ndarray, " variants"],
    total: int,
) -> Bool[np.ndarray, " variants"]:
    expected = bases[:, None] * schedule(index[None, :], warmup[:, None], total)  # [variants, points]
    allowed = _CLOSE * np.maximum(np.abs(expected), np.abs(rates)) + _ZERO * bases[:, None]
    met: Bool[np.ndarray, " variants"] = (np.abs(expected - rates) <= allowed).all(axis=1)
    return met & (bases > 0)


def _doubt(fits: Sequence[Fit], points: Points) -> str:
    """A warning where schedules that fit equally well would share the weight out differently; else nothing."""
    chosen = _shares(fits[0], points.stops)
    ends = [group[i] for group in _by_name(fits).values() for i in (0, -1)]
    others = [fit for fit in ends if np.abs(_shares(fit, points.stops) - chosen).max() > _DIFFERENT]
    if not others:
        return ""
    listed = ", ".join(dict.fromkeys(str(fit) for fit in others))
    return (
        f"The learning rates were rebuilt, and several schedules fit what the checkpoints tell: {fits[0]} (taken), "
        f"{listed}. They weight the checkpoints differently. Use hw.Recorder, or say the weights with Run.create."
    )


def _by_name(fits: Sequence[Fit]) -> dict[str, list[Fit]]:
    groups: dict[str, list[Fit]] = {}
    for fit in fits:
        groups.setdefault(fit.name, []).append(fit)
    return groups


def _shares(fit: Fit, stops: Sequence[int]) -> Float[np.ndarray, " checkpoints"]:
    sums = np.array(sums_between(fit.rates(stops[-1]).tolist(), stops))
    return sums / sums.sum() if sums.sum() > 0 else sums
