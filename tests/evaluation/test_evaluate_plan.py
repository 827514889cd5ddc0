"""Dividing retrainings among metrics, and reading times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import UsageError
from headwater.evaluation.plan import Removals, Wish, allot, counted_once
from headwater.evaluation.settings import EvaluateSettings, seconds_of


@st.composite
def wishes(draw: st.DrawFn) -> list[Wish]:
    made = []
    for number in range(draw(st.integers(1, 4))):
        steps = draw(st.lists(st.integers(0, 9), min_size=1, max_size=12))
        costs = [0.0]
        for step in steps:
            costs.append(costs[-1] + step)
        made.append(Wish(str(number), "units", draw(st.integers(0, 3)), costs))
    return made


@given(wishes(), st.integers(0, 300))
def test_what_is_given_costs_no_more_than_is_allowed_and_nothing_more_would_fit(made: list[Wish], allowed: int) -> None:
    least = [min(wish.least, wish.most) for wish in made]
    if sum(wish.cost(count) for wish, count in zip(made, least, strict=True)) > allowed:
        with pytest.raises(UsageError, match="the least"):
            allot(made, allowed)
        return
    units = allot(made, allowed)
    spent = sum(wish.cost(count) for wish, count in zip(made, units, strict=True))
    assert spent <= allowed
    for wish, count, few in zip(made, units, least, strict=True):
        assert few <= count <= wish.most
        if count < wish.most:
            assert spent - wish.cost(count) + wish.cost(count + 1) > allowed


def test_metrics_get_the_same_part_of_their_wishes() -> None:
    many, few = Wish("a", "units", 1, list(range(101))), Wish("b", "units", 1, [10.0 * n for n in range(11)])
    assert allot([many, few], 100) == [50, 5]


def test_units_share_row_sets_and_are_finished_without_a_gap() -> None:
    removals = Removals(((), (9,)), (((1,), (2,)), ((2,), (3,)), ((1,),)))
    assert removals.first(0) == ()
    assert removals.first(2) == ((), (9,), (1,), (2,), (3,))
    assert removals.finished({(), (9,), (1,), (2,)}) == 1
    assert removals.finished({(), (9,), (1,), (2,), (3,)}) == 3
    assert removals.finished({(), (1,), (2,), (3,)}) == 0


_SETS = st.lists(st.integers(0, 9), max_size=4).map(tuple)


@given(
    st.lists(st.builds(Removals, _SETS, st.lists(_SETS, max_size=5).map(tuple)), min_size=1, max_size=3),
    st.sets(st.integers(0, 9)),
    st.data(),
)
def test_shared_row_sets_are_counted_once_and_finished_ones_not(
    parts: list[Removals[int]], done: set[int], data: st.DataObject
) -> None:
    units = [data.draw(st.integers(0, len(part.of_unit))) for part in parts]
    needed = {each for part, count in zip(parts, units, strict=True) for each in part.first(count)}
    assert counted_once(parts, done)(units) == len(needed - done)


@pytest.mark.parametrize(
    ("told", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("45", 45), (0, 0), (2.5, 2.5)]
)
def test_times_are_read(told: str | float, seconds: float) -> None:
    assert seconds_of(told) == seconds


@pytest.mark.parametrize("told", ["", "soon", "-5s", "10 parsecs", "m", -1, float("nan")])
def test_what_is_no_time_is_refused(told: str | float) -> None:
    with pytest.raises(UsageError, match="budget"):
        seconds_of(told)


def test_the_grid_fits_small_corpora() -> None:
    assert EvaluateSettings().sizes(50_000) == tuple(range(10, 101, 10))
    assert EvaluateSettings().sizes(300) == (3, 6, 9, 12, 15, 18, 21, 24, 27, 30)
    assert EvaluateSettings().sizes(40) == (1, 2, 3, 4)
    assert EvaluateSettings(grid=(5, 7)).sizes(40) == (5, 7)
