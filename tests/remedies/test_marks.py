"""Marks are kept at once, no write hides another, and accepted ones are a plan of equal bytes."""

from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from headwater.errors import DataError
from headwater.remedies.marks import ConflictError, Marks
from headwater.remedies.plan import Plan, Repair, parse_plan

DELETE = Repair("delete", row=3, status="accepted", source="mislabels", group="ham → spam", score=0.5)
RELABEL = Repair("relabel", row=1, label="ham", was={"label": "spam"}, status="accepted")


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    return Marks(tmp_path / "headwater" / "marks.sqlite")


def test_a_mark_is_read_back_by_another_process_of_the_same_file(marks: Marks) -> None:
    assert marks.read() == {}
    made = marks.write(DELETE, 0)
    again = Marks(marks.path).read()
    assert again == {3: made} and again[3].repair == DELETE and again[3].by_hand


def test_a_stale_write_is_refused_with_both_values_and_changes_nothing(marks: Marks) -> None:
    first = marks.write(DELETE, 0)
    keep = replace(DELETE, action="keep")
    with pytest.raises(ConflictError) as refused:
        marks.write(keep, 0)
    assert refused.value.here == first and refused.value.wanted == keep
    assert marks.read() == {3: first}
    assert marks.write(keep, first.version).version > first.version


def test_of_writers_at_the_same_time_just_one_wins(marks: Marks) -> None:
    won, lost = [], []

    def write(note: str) -> None:
        try:
            won.append(marks.write(replace(DELETE, note=note), 0))
        except ConflictError as error:
            lost.append(error)

    threads = [Thread(target=write, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(lost) == 7
    assert marks.read()[3] == won[0] and {error.here for error in lost} == {won[0]}


def test_only_what_is_newer_is_told(marks: Marks) -> None:
    first = marks.write(DELETE, 0)
    second = marks.write(RELABEL, 0)
    assert list(marks.read(since=first.version)) == [1]
    third = marks.write(replace(DELETE, note="sure"), first.version)
    assert list(marks.read(since=second.version)) == [3] and marks.read(since=third.version) == {}


def test_suggestions_leave_decisions_alone(marks: Marks) -> None:
    decided = marks.write(DELETE, 0)
    offered = [replace(DELETE, action="keep", status="suggested"), replace(RELABEL, status="suggested", source="a")]
    assert marks.suggest(Plan(tuple(offered))) == 1
    assert marks.read()[3] == decided and not marks.read()[1].by_hand
    assert marks.suggest(Plan(tuple(offered))) == 0
    assert marks.suggest(Plan((replace(offered[1], source="b"),))) == 0
    assert marks.suggest(Plan((replace(offered[1], score=2.0),))) == 1


def test_a_group_is_accepted_as_a_whole_but_for_what_was_decided(marks: Marks) -> None:
    marks.write(replace(DELETE, action="keep"), 0)
    offered = [replace(DELETE, row=row, status="suggested") for row in range(5)]
    assert marks.accept(offered) == 4
    actions = {row: (mark.repair.action, mark.by_hand) for row, mark in marks.read().items()}
    assert actions == {row: ("keep", True) if row == 3 else ("delete", False) for row in range(5)}


def test_equal_marks_are_equal_plans_whatever_their_order(marks: Marks, tmp_path: Path) -> None:
    other = Marks(tmp_path / "other.sqlite")
    marks.write(DELETE, 0)
    marks.write(RELABEL, 0)
    marks.write(Repair("delete", row=9, status="rejected"), 0)
    other.write(RELABEL, 0)
    seen = other.write(replace(DELETE, status="rejected"), 0)
    other.write(DELETE, seen.version)
    assert marks.plan().lines() == other.plan().lines()
    assert parse_plan(marks.plan().lines().encode(), "plan").repairs == (RELABEL, DELETE)


def test_what_no_plan_can_hold_is_not_written(marks: Marks) -> None:
    with pytest.raises(DataError, match="relabel needs"):
        marks.write(Repair("relabel", row=1), 0)
    with pytest.raises(DataError, match="row"):
        marks.write(Repair("delete", id="a"), 0)
    assert marks.read() == {}


def test_a_file_that_is_no_database_is_named(marks: Marks) -> None:
    marks.path.parent.mkdir()
    marks.path.write_text("this is no database, but it is long enough to be taken for one" * 20)
    with pytest.raises(DataError, match=r"marks\.sqlite"):
        marks.read()
