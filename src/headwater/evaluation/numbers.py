"""Numbers of a table as people read them."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Three digits after the point, fewer of large numbers; a dash for what is not known."""
    if value is None or math.isnan(value):
        return "—"
    size = abs(value)
    if size != 0 and size < 0.0005:
        return f"{value:.1e}"
    return f"{value:.3f}" if size < 100 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours; a dash for what is not known."""
    if seconds is None:
        return "—"
    if seconds < 99.5:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def size(count: float | None) -> str:
    """Bytes as kB, MB, GB; a dash for what is not known or nothing."""
    if not count:
        return "—" if count is None else "0"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.1f} {unit}" if count < 9.95 and unit != "B" else f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def counted(count: int, name: str) -> str:
    """A count and its noun: 1 query, 20 queries."""
    plural = f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
    return f"{count:,} {name if count == 1 else plural}"
