"""The repair plan: what is written is read back, and whatever a file holds, its error names the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import DataError, UsageError
from headwater.remedies.choose import chosen
from headwater.remedies.plan import Calibration, Evidence, Header, Plan, Repair, parse_plan, read_plan

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WHOLE = st.integers(0, 10**6)
NUMBER = st.floats(-1e9, 1e9)
SHARE = st.floats(0, 1)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


EVIDENCE = st.builds(
    Evidence,
    kind=st.sampled_from(["query", "row", "word", "statistic"]),
    ref=maybe(WHOLE | TEXT),
    text=maybe(TEXT),
    label=maybe(TEXT),
    train_word=maybe(TEXT),
    query_word=maybe(TEXT),
    name=maybe(TEXT),
    value=maybe(NUMBER),
    percentile=maybe(NUMBER),
)


@st.composite
def repairs(draw: st.DrawFn) -> Repair:
    action = draw(st.sampled_from(["delete", "relabel", "edit", "weight", "keep"]))
    made: dict[str, Any] = {"action": action, "row": draw(maybe(WHOLE)), "id": draw(WHOLE | TEXT)}
    if action == "relabel":
        made["label"] = draw(TEXT)
    if action == "edit":
        made["fields"] = draw(st.dictionaries(TEXT, TEXT, min_size=1, max_size=2))
    if action == "weight":
        made["weight"] = draw(st.floats(0, 100) | st.integers(0, 5))
    return Repair(
        **made,
        hash=draw(maybe(TEXT)),
        was=draw(maybe(st.fixed_dictionaries({"label": TEXT}))),
        status=draw(st.sampled_from(["suggested", "accepted", "rejected"])),
        source=draw(maybe(TEXT)),
        score=draw(maybe(NUMBER)),
        rank=draw(maybe(WHOLE)),
        group=draw(maybe(TEXT)),
        confidence=draw(maybe(SHARE)),
        calibration=draw(maybe(st.builds(Calibration, method=maybe(TEXT), n=maybe(WHOLE), low=SHARE, high=SHARE))),
        evidence=tuple(draw(st.lists(EVIDENCE, max_size=3))),
        note=draw(maybe(TEXT)),
        at=draw(st.sampled_from([None, "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5+02:00"])),
    )


HEADER = st.builds(Header, run=maybe(TEXT), corpus=maybe(TEXT), command=maybe(TEXT), version=maybe(TEXT), seed=WHOLE)


@settings(max_examples=60, deadline=None)
@given(st.lists(repairs(), max_size=5), maybe(HEADER))
def test_what_is_written_is_read_back_and_written_in_the_same_bytes(some: list[Repair], header: Header | None) -> None:
    plan = Plan(tuple(some), header)
    again = parse_plan(plan.lines().encode(), "p")
    assert (again.repairs, again.header) == (plan.repairs, plan.header)
    assert again.lines() == plan.lines()
    first = 1 if header is None else 2
    assert [repair.line for repair in again.repairs] == list(range(first, first + len(some)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(
    [
        "row",
        "id",
        "action",
        "label",
        "fields",
        "weight",
        "was",
        "status",
        "rank",
        "confidence",
        "evidence",
        "at",
        "lable",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(NAMES, VALUES, max_size=4).map(json.dumps).map(str.encode)
    | st.dictionaries(NAMES, VALUES, max_size=3).map(lambda d: json.dumps({"row": 1, "action": "delete"} | d).encode())
    | st.binary(max_size=30)
)
def test_whatever_a_line_holds_the_error_is_ours_and_names_the_line(line: bytes) -> None:
    try:
        plan = parse_plan(b'{"row": 0, "action": "delete"}\n' + line, "p.jsonl")
    except DataError as error:
        assert str(error).startswith("p.jsonl, line ")
    else:
        assert parse_plan(plan.lines().encode(), "p.jsonl").repairs == plan.repairs


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"row": 1, "action": "relable"}', '"action" must be one of delete, relabel'),
        ('{"row": 1, "action": "relabel"}', 'relabel needs "label"'),
        ('{"row": 1, "action": "delete", "label": "x"}', '"label" says nothing where the action is delete'),
        ('{"row": 1, "action": "delete", "lable": "x"}', "unknown field 'lable'. Known are row, id, hash"),
        ('{"action": "delete"}', "which row"),
        ('{"row": 1}', 'no "action"'),
        ('{"row": -1, "action": "delete"}', '"row" must be 0 or more'),
        ('{"row": true, "action": "delete"}', '"row" must be a whole number, not true or false'),
        ('{"row": 1, "action": "weight", "weight": -0.5}', '"weight" must be 0 or more'),
        ('{"row": 1, "action": "weight", "weight": NaN}', "NaN is no number of JSON"),
        ('{"row": 1, "action": "weight", "weight": 1e999}', '"weight" is too large'),
        ('{"row": 1, "row": 2, "action": "delete"}', "'row' stands there twice"),
        ('{"row": 1, "action": "edit", "fields": {}}', '"fields" names no column'),
        ('{"row": 1, "action": "edit", "fields": {"text": "\\ud800"}}', "lone surrogate"),
        ('{"row": 1, "action": "delete", "status": "maybe"}', '"status" must be one of suggested'),
        ('{"row": 1, "action": "delete", "at": "yesterday"}', '"at" must be a time with its zone'),
        ('{"row": 1, "action": "delete", "confidence": 1.5}', '"confidence" must be from 0 to 1'),
        ('{"row": 1, "action": "delete", "evidence": [{"kind": "query", "rank": 1}]}', "unknown field 'evidence.rank'"),
        ("[1]", "not an object but list"),
        ("{", "not valid JSON"),
        ('{"plan": 1}', "must be the file's first"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(line: str, says: str) -> None:
    with pytest.raises(DataError) as raised:
        parse_plan(f'{{"row": 0, "action": "keep"}}\n\n{line}\n'.encode(), "p.jsonl")
    assert str(raised.value).startswith("p.jsonl, line 3: ") and says in str(raised.value)


def test_a_plan_made_in_memory_is_checked_as_one_that_is_read() -> None:
    with pytest.raises(DataError, match='the plan: relabel needs "label"'):
        Plan((Repair("relabel", row=1),))


def test_the_smallest_plan_a_header_and_a_newer_format(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"plan": 1, "run": "a", "seed": 3}\r\n{"row": 17, "action": "delete"}\r\n')
    plan = read_plan(path)
    assert plan.header == Header(run="a", seed=3)
    assert [(r.row, r.action, r.status, r.line) for r in plan.repairs] == [(17, "delete", "accepted", 2)]
    path.write_text('{"plan": 2}\n')
    with pytest.raises(DataError, match="line 1: a plan of format 2"):
        read_plan(path)
    with pytest.raises(DataError, match="No such file"):
        read_plan(tmp_path / "none.jsonl")


def test_only_accepted_rows_and_what_accept_takes_are_applied() -> None:
    def suggested(row: int, **given: Any) -> Repair:
        return Repair("delete", row=row, status="suggested", **given)

    plan = Plan(
        (
            Repair("delete", row=0),
            Repair("delete", row=1, status="rejected", rank=1, confidence=1.0, group="a"),
            suggested(2, score=1.0, confidence=0.95),
            suggested(3, score=3.0, confidence=0.5, group="a"),
            suggested(4, rank=7),
            suggested(5, rank=2, group="b"),
        )
    )

    def rows(*accept: str) -> list[int | None]:
        return [repair.row for repair in chosen(plan, accept)]

    assert rows() == [0]
    assert rows("top:1") == [0, 5]
    assert rows("top:3") == [0, 3, 4, 5]
    assert rows("confidence:0.9") == [0, 2]
    assert rows("group:a") == [0, 3]
    assert rows("group:a", "confidence:0.95") == [0, 2, 3]
    for wrong, says in (
        ("top:0", "above 0"),
        ("best", "top:200"),
        ("confidence:2", "from 0 to 1"),
        ("group:z", "none"),
    ):
        with pytest.raises(UsageError, match=says):
            rows(wrong)
