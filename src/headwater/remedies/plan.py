"""The repair plan: what shall be done to which row of a corpus, and why. One JSON object a line.

    {"plan": 1, "run": "spam", "corpus": "<fingerprint>", "command": "...", "version": "0.1", "seed": 0}     optional
    {"row": 17, "action": "delete"}
    {"row": 21, "hash": "...", "action": "relabel", "label": "ham", "was": {"label": "spam"}, "status": "suggested"}

Equal plans give equal bytes: fields stand in one order, and what is at its default is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from headwater.errors import DataError
from headwater.files import write_text
from headwater.remedies.fields import (
    ACTIONS,
    EVIDENCE_KINDS,
    STATUSES,
    Fault,
    a_count,
    a_float,
    a_map,
    a_share,
    a_string,
    a_time,
    a_whole,
    an_id,
    one_of,
    only_known,
)

FORMAT = 1
MOST_EVIDENCE = 10


@dataclass(frozen=True)
class Header:
    """Where a plan came from; all of it may be missing."""

    run: str | None = None
    corpus: str | None = None
    """Fingerprint (32 hexadecimal digits) or name of the corpus that it speaks of."""
    command: str | None = None
    version: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Evidence:
    """One reason: a query, a row or a word that speaks for the action, or a statistic."""

    kind: str
    ref: int | str | None = None
    """Of a query, its row (from 0) or its id; of a row likewise."""
    text: str | None = None
    label: str | int | None = None
    train_word: str | None = None
    query_word: str | None = None
    name: str | None = None
    value: float | None = None
    percentile: float | None = None


@dataclass(frozen=True)
class Calibration:
    """How a confidence was measured: on `n` reviewed rows, with an interval."""

    method: str | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Repair:
    """What shall be done to one row. `row` counts from 0. `line` is where it stood in its file, 0 if in none."""

    action: str
    row: int | None = None
    id: int | str | None = None
    hash: str | None = None
    """Of the row's texts and label (and a weight other than 1), as `Corpus.hashes`."""
    label: str | int | None = None
    fields: dict[str, str] | None = None
    weight: float | None = None
    was: dict[str, Any] | None = None
    status: str = "accepted"
    source: str | None = None
    score: float | None = None
    rank: int | None = None
    group: str | None = None
    confidence: float | None = None
    calibration: Calibration | None = None
    evidence: tuple[Evidence, ...] = ()
    note: str | None = None
    by: str | None = None
    at: str | None = None
    line: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Repair) and _record(self) == _record(other)

    def __hash__(self) -> int:
        return hash((self.row, self.id, self.action))

    @property
    def place(self) -> str:
        """What messages call the row."""
        return f"row {self.row:,}" if self.row is not None else f"the row with id {self.id!r}"


@dataclass(frozen=True)
class Plan:
    """Repairs in the order of their lines; `name` is what messages call the plan."""

    repairs: tuple[Repair, ...] = ()
    header: Header | None = None
    name: str = "the plan"

    def __post_init__(self) -> None:
        """Raise DataError for what no file could hold: a plan made in memory is checked as one that is read."""
        for repair in self.repairs:
            _checked(_record(repair), self.where(repair))

    def where(self, repair: Repair) -> str:
        """Where a repair stands: `plan.jsonl, line 4`."""
        return f"{self.name}, line {repair.line}" if repair.line else self.name

    def lines(self) -> str:
        """The text of the file."""
        made = [] if self.header is None else [{"plan": FORMAT, **_filled(self.header)}]
        return "".join(
            json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
            for record in [*made, *map(_record, self.repairs)]
        )

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all. Equal plans give equal bytes."""
        write_text(path, self.lines())

    def numbered(self) -> Plan:
        """The plan with the line numbers that its own text gives it."""
        first = 1 if self.header is None else 2
        return replace(self, repairs=tuple(replace(r, line=n) for n, r in enumerate(self.repairs, first)))


def read_plan(path: str | Path) -> Plan:
    """Read a plan. Raises DataError naming file and line: not JSON, an unknown field, a value that does not fit."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}. Give the file of a repair plan (.jsonl).") from None
    return parse_plan(content, str(path))


def parse_plan(content: bytes, name: str) -> Plan:
    """The plan that these bytes hold; `name` is what messages call it. Raises DataError as `read_plan` does."""
    header: Header | None = None
    repairs: list[Repair] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        where = f"{name}, line {number}"
        if not line.strip():
            continue
        record = _parsed(line, where)
        if "plan" in record:
            if header is not None or repairs:
                raise DataError(f'{where}: the line that begins with "plan" must be the file\'s first.')
            header = _header(record, where)
            continue
        _checked(record, where)
        repairs.append(_repair(record, number))
    return Plan(tuple(repairs), header, name)


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(name for name, _ in pairs if sum(other == name for other, _ in pairs) > 1)
            raise Fault(f"the field {twice!r} stands there twice.")
        return found

    def refuse(constant: str) -> Any:
        raise Fault(f"{constant} is no number of JSON.")

    try:
        record = json.loads(line.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    except Fault as fault:
        raise DataError(f"{where}: {fault}") from None
    except (ValueError, RecursionError) as error:  # of bytes, of JSON, of a number of 5,000 digits; nested too deep
        raise DataError(f"{where}: not valid JSON ({type(error).__name__}: {error}). One object a line.") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: not an object but {type(record).__name__}. Write {{...}}, one a line.")
    return record


def _header(record: dict[str, Any], where: str) -> Header:
    kinds = {"plan": a_count, "run": a_string, "corpus": a_string, "command": a_string, "version": a_string}
    try:
        only_known(record, {**kinds, "seed": a_whole})
        if record["plan"] != FORMAT:
            raise Fault(f"a plan of format {record['plan']}; this Headwater knows {FORMAT}.")
    except Fault as fault:
        raise DataError(f"{where}: {fault}") from None
    return Header(**{name: value for name, value in record.items() if name != "plan"})


_EVIDENCE = {
    "kind": one_of(*EVIDENCE_KINDS),
    "ref": an_id,
    "text": a_string,
    "label": an_id,
    "train_word": a_string,
    "query_word": a_string,
    "name": a_string,
    "value": a_float,
    "percentile": a_float,
}
_FIELDS = {
    "row": a_count,
    "id": an_id,
    "hash": a_string,
    "action": one_of(*ACTIONS),
    "label": an_id,
    "fields": a_map,
    "weight": a_float,
    "was": a_map,
    "status": one_of(*STATUSES),
    "source": a_string,
    "score": a_float,
    "rank": a_whole,
    "group": a_string,
    "confidence": a_share,
    "calibration": a_map,
    "evidence": None,
    "note": a_string,
    "by": a_string,
    "at": a_time,
}
_FLOATS = ("weight", "score", "confidence")
_SETS = {"relabel": "label", "edit": "fields", "weight": "weight"}


def _checked(record: dict[str, Any], where: str) -> None:
    """Raise DataError for a record that says nothing, or something else than the fields allow."""
    try:
        only_known(record, _FIELDS)
        if record.get("row") is None and record.get("id") is None:
            raise Fault('which row? Give "row" (counted from 0) or "id".')
        if "action" not in record:
            raise Fault(f'there is no "action": {", ".join(ACTIONS)}.')
        action = record["action"]
        wanted = _SETS.get(action)
        for name in _SETS.values():
            if name == wanted and record.get(name) is None:
                raise Fault(f'{action} needs "{name}".')
            if name != wanted and record.get(name) is not None:
                raise Fault(f'"{name}" says nothing where the action is {action}.')
        if wanted == "weight" and record["weight"] < 0:
            raise Fault(f'"weight" must be 0 or more, not {record["weight"]}.')
        if wanted == "fields":
            _check_texts(record["fields"], "fields")
        _check_was(record.get("was"))
        if record.get("calibration") is not None:
            kinds = {"method": a_string, "n": a_count, "low": a_share, "high": a_share}
            only_known(record["calibration"], kinds, inside="calibration")
        _check_evidence(record.get("evidence"))
    except Fault as fault:
        raise DataError(f"{where}: {fault}") from None


def _check_was(was: dict[str, Any] | None) -> None:
    if was is None:
        return
    only_known(was, {"label": an_id, "fields": a_map}, inside="was")
    if was.get("fields") is not None:
        _check_texts(was["fields"], "was.fields")


def _check_texts(given: dict[str, Any], name: str) -> None:
    if not given:
        raise Fault(f'"{name}" names no column.')
    for column, text in given.items():
        a_string(f"{name}.{column}", text)
        if text is None:
            raise Fault(f'"{name}.{column}" must be a text.')


def _check_evidence(evidence: Any) -> None:
    if evidence is None:
        return
    if not isinstance(evidence, list) or len(evidence) > MOST_EVIDENCE:
        raise Fault(f'"evidence" must be a list of at most {MOST_EVIDENCE}.')
    for each in evidence:
        if not isinstance(each, dict) or "kind" not in each:
            raise Fault('each of "evidence" must be an object with a "kind".')
        only_known(each, _EVIDENCE, inside="evidence")


def _repair(record: dict[str, Any], line: int) -> Repair:
    given = {name: value for name, value in record.items() if value is not None}
    for name in _FLOATS:
        if name in given:
            given[name] = float(given[name])
    if "calibration" in given:
        given["calibration"] = Calibration(**given["calibration"])
    given["evidence"] = tuple(Evidence(**each) for each in given.get("evidence") or ())
    return Repair(**given, line=line)


def _record(repair: Repair) -> dict[str, Any]:
    """A repair as it is written: in the order of `_FIELDS`, without what is at its default."""
    found: dict[str, Any] = {}
    for name in _FIELDS:
        value = getattr(repair, name)
        if value is None or value == () or (name, value) == ("status", "accepted"):
            continue
        if name == "evidence":
            value = [_filled(each) for each in value]
        found[name] = _filled(value) if name == "calibration" else _number(name, value)
    return found


def _number(name: str, value: Any) -> Any:
    """Numbers that a reader makes floats are written as such: equal plans, equal bytes."""
    return float(value) if name in _FLOATS and type(value) is int else value


def _filled(value: Any) -> dict[str, Any]:
    pairs = [(each.name, getattr(value, each.name)) for each in fields(value)]
    return {name: given for name, given in pairs if given is not None}
