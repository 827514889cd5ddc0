"""Reviews: a sample that is the same each time, Wilson's interval, and how many wrong rows are left."""

from dataclasses import replace
from math import sqrt

import pytest
from scipy.stats import binomtest

from headwater.remedies.marks import Mark
from headwater.remedies.plan import Repair
from headwater.remedies.review import bands_of, sample_of, was_right, wilson, wrong_left

RANKED = [Repair("delete", row=row, status="suggested") for row in range(100)]


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (0, 20), (7, 20), (20, 20), (499, 1000)])
def test_the_interval_is_wilsons(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right, count) == pytest.approx((expected.low, expected.high), abs=1e-12)
    # Both ends solve (share - p)^2 = z^2 p (1 - p) / n, which is how Wilson wrote it.
    for end in wilson(right, count):
        assert abs(right / count - end) == pytest.approx(1.959964 * sqrt(end * (1 - end) / count), abs=1e-6)


def test_of_nothing_nothing_is_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert bands_of([], {}) == [] and wrong_left([]).about == 0


def test_the_sample_is_the_same_each_time_and_spread_over_the_group() -> None:
    drawn = sample_of(RANKED, 10, seed=4)
    assert drawn == sample_of(RANKED, 10, seed=4) != sample_of(RANKED, 10, seed=5)
    assert len({repair.row for repair in drawn}) == 10
    counts = [sum(repair.row < 50 for repair in sample_of(RANKED, 10, seed=seed)) for seed in range(400)]
    assert sum(counts) / 4000 == pytest.approx(0.5, abs=0.03)
    assert sorted(repair.row for repair in sample_of(RANKED[:3], 10)) == [0, 1, 2]


def test_precision_counts_what_was_looked_at_and_the_rest_is_extrapolated() -> None:
    marks = {}
    for row in range(0, 50, 5):  # 5 in each of the first two bands of 25
        action = "delete" if row < 20 else "keep"
        marks[row] = Mark(Repair(action, row=row), version=row + 1, by_hand=True)
    marks[1] = Mark(Repair("delete", row=1), version=99)  # accepted with its group, not looked at
    bands = bands_of(RANKED, marks)
    assert [(band.first, band.last, band.reviewed, band.right, band.left) for band in bands] == [
        (1, 25, 5, 4, 19),
        (26, 50, 5, 0, 20),
        (51, 75, 0, 0, 25),
        (76, 100, 0, 0, 25),
    ]
    assert wrong_left(bands).about is None
    left = wrong_left(bands[:2])
    assert left.about == pytest.approx(0.8 * 19) and left.low < left.about < left.high
    assert left.high == pytest.approx(bands[0].high * 19 + bands[1].high * 20)


def test_a_row_that_is_kept_or_refused_was_not_wrong() -> None:
    mark = Mark(Repair("delete", row=1), 1, by_hand=True)
    assert was_right(mark)
    assert not was_right(replace(mark, repair=Repair("keep", row=1)))
    assert not was_right(replace(mark, repair=Repair("delete", row=1, status="rejected")))
