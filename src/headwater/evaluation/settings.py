"""What an evaluation can be told. One dataclass for the Python API and the command line: `help` is what both show."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from headwater.errors import UsageError
from headwater.evaluation.bank import Protocol, half, leave_k_out


def _setting(default: Any, sentence: str, off: str = "") -> Any:
    return field(default=default, metadata={"help": sentence, **({"off": off} if off else {})})


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Settings of `evaluate`. Raises UsageError where a value makes no sense."""

    subsets: int = _setting(100, "lds: retrain on so many subsets, as far as the budget goes.")
    protocol: Literal["half", "leave-k-out"] = _setting("half", "lds: subsets of half the rows, or of all but a few.")
    leave_out: float = _setting(0.05, "leave-k-out: the part of the rows that a subset leaves out.")
    seeds: int = _setting(2, "Retrain each set of rows with so many seeds; a noise ceiling needs 2.")
    measure: Literal["loss", "margin", "probability"] = _setting(
        "loss", "lds: what of a query the subsets are compared by."
    )
    grid: tuple[int, ...] | None = _setting(
        None, "deletion: how many rows are removed; 10, 20, ..., 100 if unset, or 1% to 10% of fewer than 1,000 rows."
    )
    share: float = _setting(0.01, "qld: the part of the rows that is removed.")
    draws: int = _setting(
        3, "deletion, qld, filtering: so many random removals, the same for all queries, as the control."
    )
    rows_out: int = _setting(200, "leave-one-out: leave out so many rows, one at a time (all, if there are no more).")
    k: int = _setting(10, "tail-patch, facts, hubness, stability, word-deletion: how long the lists of top rows are.")
    words: tuple[int, ...] = _setting((10, 20, 50), "word-deletion: how many words are cut.")
    filter_share: float = _setting(0.3, "filtering: the part of the rows that is removed, those of the lowest scores.")
    group_column: str | None = _setting(None, "groups: column of the corpus; rows with the same value are a group.")
    fact_column: str | None = _setting(
        None, "facts: column of corpus and queries; a row is right for a query where the values are the same."
    )
    noise_column: str | None = _setting(
        None, "ndr, auc-ndr, mislabel: column of the corpus that is true where the label is wrong."
    )
    baselines: bool = _setting(
        True,
        "Grade random scores and the lexical baselines too.",
        off="Leave random scores and the lexical baselines out.",
    )
    retrains: int | None = _setting(None, "Use at most so many retrainings in all.")
    processes: int | None = _setting(None, "Retrain in so many processes; one a core, where that pays, if unset.")
    arithmetic: Literal["exact", "quick"] = _setting(
        "exact", "Retrain bit by bit as `train` does, or (textcnn) faster and rounded differently."
    )
    first_weights: Literal["same", "fresh"] = _setting(
        "same", "Retrain from the run's own first weights with every seed, or (textcnn) from new ones for each."
    )
    seed: int = _setting(0, "Draws queries, subsets and random rows, breaks ties, and is the seed of the intervals.")

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("subsets", "seeds", "draws", "rows_out", "k")}
        for name, value in counts.items():
            if value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}.")
        if self.subsets < 3:
            raise UsageError(f"subsets must be at least 3, not {self.subsets}: a correlation of two says nothing.")
        if self.protocol not in ("half", "leave-k-out"):
            raise UsageError(f"protocol {self.protocol!r} is not one of half, leave-k-out.")
        for name in ("leave_out", "share", "filter_share"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name} is a part of the rows, above 0 and below 1, not {getattr(self, name)}.")
        if self.measure not in ("loss", "margin", "probability"):
            raise UsageError(f"measure {self.measure!r} is not one of loss, margin, probability.")
        if self.retrains is not None and self.retrains < 0:
            raise UsageError(f"retrains must not be negative, but is {self.retrains}.")
        if self.processes is not None and self.processes < 1:
            raise UsageError(f"processes must be at least 1, not {self.processes}.")
        if not self.words or self.words[0] < 1 or list(self.words) != sorted(set(self.words)):
            raise UsageError(f"words must ascend from at least 1, not {self.words}.")
        if self.seed < 0:
            raise UsageError(f"seed must not be negative, but is {self.seed}.")

    @property
    def drawn(self) -> Protocol:
        """How subsets are drawn."""
        return half(seed=self.seed) if self.protocol == "half" else leave_k_out(share=self.leave_out, seed=self.seed)

    def sizes(self, rows: int) -> tuple[int, ...]:
        """How many rows a deletion removes at each point of its curve, of a corpus of so many rows."""
        if self.grid is not None:
            return self.grid
        step = 10 if rows >= 1000 else rows / 100
        return tuple(sorted({max(1, round(step * point)) for point in range(1, 11)}))

    def filtered(self, rows: int) -> int:
        """How many rows filtering removes. Raises UsageError where that is none."""
        gone = round(self.filter_share * rows)
        if not 0 < gone < rows:
            raise UsageError(
                f"filter_share {self.filter_share:g} of {rows:,} rows is {gone:,}: some must go, some stay."
            )
        return gone

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"grid": None if self.grid is None else list(self.grid), "words": list(self.words)}


_PART = re.compile(r"(\d+(?:\.\d+)?)([smh])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(budget: str | float) -> float:
    """Read a time: seconds, or "90s", "10m", "1h30m". Raises UsageError."""
    if isinstance(budget, int | float) or re.fullmatch(r"\d+(\.\d+)?", budget.strip()):
        value = float(budget)
    elif re.fullmatch(rf"(?:{_PART.pattern})+", budget.strip()):
        value = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(budget))
    else:
        raise UsageError(f"budget {budget!r} is not a time. Write seconds, or 90s, 10m, 1h30m.")
    if not 0 <= value < 1e9:
        raise UsageError(f"budget must be a time from 0 s, not {budget}.")
    return value
