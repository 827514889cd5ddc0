"""What the fields of a repair plan may hold: one small check a kind. Each raises Fault with what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

ACTIONS = ("delete", "relabel", "edit", "weight", "keep")
STATUSES = ("suggested", "accepted", "rejected")
EVIDENCE_KINDS = ("query", "row", "word", "statistic")

Check = Callable[[str, Any], None]
"""Takes a field's name and its value, which may be None: not given."""

_LARGEST = 1 << 53  # whole numbers beyond are not the same in every reader of JSON


class Fault(Exception):  # noqa: N818  a sentence, never shown as an error of its own
    """What is wrong with a line, as a sentence; whoever reads the file adds where."""


def only_known(record: Mapping[str, Any], checks: Mapping[str, Check | None], *, inside: str = "") -> None:
    """Check every field. Raises Fault for one that is not among `checks`: a typing error would be lost in silence."""
    for name, value in record.items():
        spelled = f"{inside}.{name}" if inside else name
        if name not in checks:
            raise Fault(f"unknown field {spelled!r}. Known are {', '.join(checks)}.")
        check = checks[name]
        if check is not None:
            check(spelled, value)


def a_string(name: str, value: Any) -> None:
    """Text that can be written as UTF-8."""
    if value is None:
        return
    if not isinstance(value, str):
        raise Fault(f'"{name}" must be text, not {_kind(value)}.')
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Fault(f'"{name}" holds half of a character (a lone surrogate).') from None


def a_whole(name: str, value: Any) -> None:
    """A whole number."""
    if value is None:
        return
    if type(value) is not int:
        raise Fault(f'"{name}" must be a whole number, not {_kind(value)}.')
    if abs(value) > _LARGEST:
        raise Fault(f'"{name}" is too large.')


def a_count(name: str, value: Any) -> None:
    """A whole number, 0 or more."""
    a_whole(name, value)
    if value is not None and value < 0:
        raise Fault(f'"{name}" must be 0 or more, not {value}.')


def a_float(name: str, value: Any) -> None:
    """A finite number."""
    if value is None:
        return
    if type(value) not in (int, float):
        raise Fault(f'"{name}" must be a number, not {_kind(value)}.')
    if (abs(value) > _LARGEST and type(value) is int) or not math.isfinite(value):
        raise Fault(f'"{name}" is too large.')


def a_share(name: str, value: Any) -> None:
    """A number from 0 to 1."""
    a_float(name, value)
    if value is not None and not 0 <= value <= 1:
        raise Fault(f'"{name}" must be from 0 to 1, not {value}.')


def an_id(name: str, value: Any) -> None:
    """Text or a whole number."""
    (a_string if isinstance(value, str) else a_whole)(name, value)


def a_map(name: str, value: Any) -> None:
    """An object; its keys are text that can be written."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise Fault(f'"{name}" must be an object, not {_kind(value)}.')
    for key in value:
        a_string(name, key)


def a_time(name: str, value: Any) -> None:
    """A time as RFC 3339 writes it, with its zone."""
    a_string(name, value)
    if value is None:
        return
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None or value[10:11] not in ("T", "t", " "):
        raise Fault(f'"{name}" must be a time with its zone, as 2026-01-31T12:00:00Z, not {value!r}.')


def one_of(*allowed: str) -> Check:
    """One of a few words."""

    def check(name: str, value: Any) -> None:
        if value not in allowed or not isinstance(value, str):
            shown = repr(value) if isinstance(value, str) else _kind(value)
            raise Fault(f'"{name}" must be one of {", ".join(allowed)}, not {shown}.')

    return check


def _kind(value: Any) -> str:
    names = {"str": "text", "dict": "an object", "list": "a list", "NoneType": "null", "bool": "true or false"}
    return names.get(type(value).__name__, "a number")
