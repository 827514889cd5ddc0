"""Groups hold every suggestion once, the largest group first."""

from pathlib import Path

from headwater.remedies.groups import groups_of
from headwater.remedies.marks import Marks
from headwater.remedies.plan import Plan, Repair

NAMES = ["b", "a", None, "a", "c", "a", "c", None]
PLAN = Plan(tuple(Repair("delete", row=10 - n, group=name, status="suggested") for n, name in enumerate(NAMES)))


def test_the_largest_group_comes_first_and_each_row_is_in_one() -> None:
    groups = groups_of("mislabels", PLAN)
    assert [(group.name, len(group.repairs)) for group in groups] == [("a", 3), ("", 2), ("c", 2), ("b", 1)]
    assert sorted(r.row for group in groups for r in group.repairs) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert [repair.row for repair in groups[0].repairs] == [9, 7, 5]
    assert groups[1].title == "no group"


def test_decided_rows_are_counted_whichever_way_they_went(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "marks.sqlite")
    marks.suggest(PLAN)
    group = groups_of("mislabels", PLAN)[0]
    assert group.decided(marks.read()) == 0
    marks.write(Repair("keep", row=9), marks.read()[9].version)
    marks.write(Repair("delete", row=7, status="rejected"), marks.read()[7].version)
    assert group.decided(marks.read()) == 2
