"""One cell of the table: a metric of a method, how sure it is, how it was measured, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from headwater.evaluation.metrics.bootstrap import Interval


@dataclass(frozen=True)
class Result:
    """`low` and `high` are a 95% interval over queries, or what `protocol` names; NaN where there is none."""

    metric: str
    method: str
    value: float
    low: float
    high: float
    queries: int
    """How many queries the value is over; those without one are named in `notes`."""
    protocol: str
    """What was retrained, removed or asked: values of different protocols must not be compared."""
    seconds: float | None = None
    """What scoring took, for all queries."""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        metric: str,
        method: str,
        interval: Interval,
        protocol: str,
        *,
        seconds: float | None = None,
        notes: Sequence[str] = (),
    ) -> Result:
        """Make one of an interval; queries that were left out become a note."""
        told = list(notes)
        if interval.left_out:
            told.append(f"{interval.left_out:,} of {interval.left_out + interval.queries:,} queries have no value.")
        return cls(
            metric,
            method,
            interval.value,
            interval.low,
            interval.high,
            interval.queries,
            protocol,
            seconds,
            tuple(told),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None stands for NaN."""
        plain = asdict(self) | {"notes": list(self.notes)}
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain.items()
        }
