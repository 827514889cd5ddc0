"""A removal trial as it is drawn: what was removed, what it did to accuracy, what it did to the queries.

The input (the demo and `headwater fix` write it):

    {"removed": 160,             rows that the repaired arm left out
     "planted": 160,             labels that were flipped on purpose, or None
     "planted_found": 121,       of those, how many were among the removed
     "planted_by_chance": 12.8,  expected among as many random rows
     "arms": [{"name": "untouched", "accuracy": [0.94, ...], "rows": 2000}, ...],     accuracy: one a seed; or, in
                                                                                      all arms, "loss" a token in nats
     "queries": [{"text": "...", "label": "spam",
                  "before": {"predicted": "ham", "probability": 0.07},                probability: of the true label
                  "repaired": {...}, "random": {...}}, ...],
     "verdict": "one sentence"}

Arms come in the order to show; further arms and further states of a query are drawn like these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from headwater.attribution.numerals import MINUS, plural, probability


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm: a dot a seed, placed from 0 (left) to 1 (right) on the chart's axis."""

    name: str
    rows: str
    mean: str
    change: str  # against the first arm: "+3.1" points, or "+0.031" nats
    at: float
    dots: tuple[float, ...]
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class State:
    """What one arm's model makes of a query."""

    name: str
    predicted: str
    probability: str
    share: float  # probability of the true label, 0..1
    right: bool


@dataclass(frozen=True, slots=True)
class TrialQuery:
    """A query under every arm."""

    text: str
    label: str
    states: tuple[State, ...]
    outcome: str  # "fixed", "broken", or nothing


@dataclass(frozen=True, slots=True)
class Trial:
    """A removal trial, ready to draw."""

    verdict: str
    removed: int
    planted: int | None
    found: int | None
    chance: float | None
    arms: tuple[Arm, ...]
    caption: str
    """What the arms' numbers are."""
    unit: str
    """Of the changes."""
    ticks: tuple[tuple[float, str], ...]
    seeds: int
    queries: tuple[TrialQuery, ...]


def trial_view(trial: Mapping[str, Any]) -> Trial:
    """Lay a trial out; see the top of this file for its shape."""
    arms = [arm for arm in trial.get("arms") or () if arm.get("accuracy") or arm.get("loss")]
    by = "loss" if arms and "loss" in arms[0] else "accuracy"
    low, high, ticks = _axis([value for arm in arms for value in arm[by]], by)
    first = fmean(arms[0][by]) if arms else 0.0
    decimals = _decimals(ticks, by)
    return Trial(
        verdict=_sentence(str(trial.get("verdict") or "")),
        removed=int(trial.get("removed") or 0),
        planted=_count(trial.get("planted")),
        found=_count(trial.get("planted_found")),
        chance=None if trial.get("planted_by_chance") is None else float(trial["planted_by_chance"]),
        arms=tuple(_arm(arm, by, first, low, high, arm is arms[0]) for arm in arms),
        caption="Loss of a target token on test rows (nats, lower is better)"
        if by == "loss"
        else "Accuracy on test rows",
        unit="nats" if by == "loss" else "pts",
        ticks=tuple(((tick - low) / (high - low), _told(tick, by, decimals)) for tick in ticks),
        seeds=max((len(arm[by]) for arm in arms), default=0),
        queries=tuple(_query(query) for query in trial.get("queries") or ()),
    )


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("." if text and text[-1] not in ".!?" else "")


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def _arm(arm: Mapping[str, Any], by: str, first: float, low: float, high: float, is_first: bool) -> Arm:
    values = [float(value) for value in arm[by]]
    mean = fmean(values)
    change, digits = (mean - first, 3) if by == "loss" else (100 * (mean - first), 1)
    sign = MINUS if round(change, digits) < 0 else "+"
    return Arm(
        name=str(arm["name"]),
        rows="" if arm.get("rows") is None else plural(int(arm["rows"]), "row"),
        mean=_told(mean, by, digits),
        change="" if is_first else f"{sign}{abs(change):.{digits}f}",
        at=(mean - low) / (high - low),
        dots=tuple((value - low) / (high - low) for value in values),
        values=tuple(_told(value, by, digits + 1) for value in values),
    )


def _told(value: float, by: str, decimals: int) -> str:
    return f"{value:.{decimals}f}" if by == "loss" else f"{100 * value:.{decimals}f}%"


def _axis(values: list[float], by: str) -> tuple[float, float, list[float]]:
    """An axis around the values with three to six round ticks; it does not begin at 0, and its ticks say so."""
    if not values:
        return 0.0, 1.0, []
    low, high = min(values), max(values)
    spread = max(high - low, 0.01)
    step = next(step for power in range(-4, 2) for m in (1, 2, 5) if spread / (step := m * 10.0**power) <= 4)
    start, stop = math.floor((low - 0.15 * spread) / step), math.ceil((high + 0.15 * spread) / step)
    start = max(start, 0)  # neither a loss nor a share is below 0, and no share above 1
    stop = stop if by == "loss" else min(stop, round(1 / step))
    ticks = [round(index * step, 6) for index in range(start, stop + 1)]
    return ticks[0], ticks[-1], ticks


def _decimals(ticks: Sequence[float], by: str) -> int:
    """As many as tell two ticks apart."""
    if len(ticks) < 2:
        return 0
    if by == "accuracy":
        return 0 if ticks[-1] - ticks[0] >= 0.04 else 1
    return max(0, math.ceil(-math.log10(ticks[1] - ticks[0]) - 1e-6))


def _query(query: Mapping[str, Any]) -> TrialQuery:
    label = str(query["label"])
    states = tuple(
        State(
            name=str(name),
            predicted=str(state["predicted"]),
            probability=probability(float(state["probability"])),
            share=min(1.0, max(0.0, float(state["probability"]))),
            right=str(state["predicted"]) == label,
        )
        for name, state in query.items()
        if isinstance(state, Mapping) and "predicted" in state
    )
    before, repaired = (next((s for s in states if s.name == name), None) for name in ("before", "repaired"))
    outcome = ""
    if before and repaired and before.right != repaired.right:
        outcome = "fixed" if repaired.right else "broken"
    return TrialQuery(str(query["text"]), label, states, outcome)
