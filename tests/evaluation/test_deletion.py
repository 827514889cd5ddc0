"""Deletion: plans hold each row set once, curves are those of real retrainings, the control is random removal."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.convex import Logistic
from headwater.errors import UsageError
from headwater.evaluation.metrics import deletion, qld
from headwater.evaluation.metrics.bootstrap import interval


def retrained(world: Logistic, removals: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Margins [sets, 1 seed, queries] of logistic regressions trained without each row set."""
    every = np.arange(len(world.inputs))
    return np.stack([world.margins(np.setdiff1d(every, removal)) for removal in removals])[:, None]


def test_a_plan_names_each_query_s_top_rows_and_each_set_once() -> None:
    scores = np.array([[9.0, 8, 7, 0, 1, 2], [8.0, 9, 0, 7, 1, 2], [-1.0, -2, -3, 5, 4, 3]])
    made = deletion.plan(scores, grid=[1, 2, 3])
    assert [[made.removals[at] for at in row] for row in made.of] == [
        [(0,), (0, 1), (0, 1, 2)],
        [(1,), (0, 1), (0, 1, 3)],
        [(3,), (3, 4), (3, 4, 5)],
    ]
    assert len(made.removals) == len(set(made.removals)) == 8  # {0, 1} serves two queries
    lowest = deletion.plan(scores, grid=[2], opponents=True)
    assert [lowest.removals[at] for (at,) in lowest.of] == [(3, 4), (2, 4), (1, 2)]
    assert len(deletion.together([made, lowest, made])) == 10  # (3, 4) is in both


def test_the_control_is_random_nested_and_seeded() -> None:
    made = deletion.random_plan(200, 30, grid=[5, 50])
    drawn = np.zeros(200)
    for small, large in made.of:
        assert set(made.removals[small]) < set(made.removals[large])
        assert (len(made.removals[small]), len(made.removals[large])) == (5, 50)
        drawn[list(made.removals[large])] += 1
    assert (drawn > 0).mean() > 0.99
    assert made.removals == deletion.random_plan(200, 30, grid=[5, 50]).removals
    assert made.removals != deletion.random_plan(200, 30, grid=[5, 50], seed=1).removals


def test_a_method_without_an_opinion_removes_random_rows() -> None:
    made = deletion.plan(np.zeros((1, 1_000)), grid=[100])
    assert 400 < np.mean(made.removals[0]) < 600


def test_curves_and_auc_are_the_means_that_the_equation_says() -> None:
    values = np.array([[[0.5, 0.7], [0.2, 0.2]], [[0.9, 0.9], [0.8, 0.6]]])
    found = deletion.curves(values, np.array([0.8, 1.0]))
    np.testing.assert_allclose(found, [[-0.2, -0.6], [-0.1, -0.3]])
    np.testing.assert_allclose(deletion.auc(found), [-0.4, -0.2])
    control = np.array([[-0.1, -0.1], [0.0, -0.1]])
    beyond = deletion.against_random(found, control)
    assert beyond.value == pytest.approx((-0.3 - 0.15) / 2)


def test_each_query_finds_its_own_retrainings_in_a_bank_of_another_order() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 20))
    made = deletion.plan(scores, grid=[2, 5])
    control = deletion.random_plan(20, 3, grid=[2, 5])
    sets = list(reversed(deletion.together([control, made])))
    outputs = np.array([[[sum(rows) + 1000 * seed + 0.5 * q for q in range(4)] for seed in range(2)] for rows in sets])
    found = deletion.gather(made, outputs, sets=sets)
    for query in range(4):
        for point, k in enumerate((2, 5)):
            top = int(np.argsort(-scores[query])[:k].sum())
            assert found[query, point].tolist() == [top + 0.5 * query, top + 1000 + 0.5 * query]
    own = np.stack([outputs[sets.index(rows)] for rows in made.removals])
    np.testing.assert_array_equal(deletion.gather(made, own), found)
    drawn = deletion.gather_random(control, outputs, sets=sets)
    assert drawn.shape == (4, 2, 6)
    wanted = [sum(control.removals[at]) + 1000 * seed + 1.5 for at in control.of[:, 1] for seed in range(2)]
    assert drawn[3, 1].tolist() == wanted
    with pytest.raises(UsageError, match="1 of 8 row sets were not retrained"):
        deletion.gather(made, own[1:], sets=made.removals[1:])


def test_in_a_convex_world_the_influence_function_deletes_well_and_its_negative_the_other_way() -> None:
    world = Logistic.drawn()
    grid = (2, 5, 10, 15)
    everything = world.margins(np.arange(len(world.inputs)))

    def graded(scores: np.ndarray, *, opponents: bool = False) -> np.ndarray:
        made = deletion.plan(scores, grid=grid, opponents=opponents)
        return deletion.curves(deletion.gather(made, retrained(world, made.removals)), everything)

    drawn = deletion.random_plan(len(world.inputs), 10, grid=grid)
    control = deletion.curves(deletion.gather_random(drawn, retrained(world, drawn.removals)), everything)
    influence = world.influence()
    proponents, opponents = graded(influence), graded(influence, opponents=True)
    assert deletion.against_random(proponents, control).high < -0.3
    assert deletion.against_random(opponents, control).low > 0.3
    assert (np.diff(proponents.mean(axis=0)) < 0).all()
    np.testing.assert_allclose(graded(-influence), opponents)
    noise = graded(np.random.default_rng(3).normal(size=influence.shape))
    chance = deletion.against_random(noise, control)
    assert chance.low < 0 < chance.high
    assert abs(chance.value) < 0.15 * abs(deletion.against_random(proponents, control).value)


def test_a_retraining_that_was_not_done_leaves_its_query_out() -> None:
    values = np.ones((3, 2, 2))
    values[1, 1, 0] = np.nan
    found = interval(deletion.auc(deletion.curves(values, np.zeros(3))))
    assert (found.value, found.queries, found.left_out) == (1.0, 2, 1)


def test_qld_is_the_rise_of_the_loss_beyond_random_removal() -> None:
    world = Logistic.drawn(rows=100)
    every = np.arange(100)
    made, control = qld.plan(world.influence(), share=0.05), qld.random_plan(100, 8, share=0.05)

    def losses(removals: tuple[tuple[int, ...], ...]) -> np.ndarray:
        return np.stack([world.losses(np.setdiff1d(every, removal)) for removal in removals])[:, None]

    found = qld.qld(
        deletion.gather(made, losses(made.removals)), deletion.gather_random(control, losses(control.removals))
    )
    for query in range(len(world.asked)):
        top = np.argsort(-world.influence()[query])[:5]
        rise = world.losses(np.setdiff1d(every, top))[query]
        at_random = np.mean([world.losses(np.setdiff1d(every, rows))[query] for rows in control.removals])
        assert found[query] == pytest.approx(rise - at_random)
    assert interval(found).low > 0


def test_one_per_cent_is_rounded_and_at_least_a_row() -> None:
    for rows, count in ((30, 1), (1_000, 10), (1_260, 13)):
        assert qld.plan(np.zeros((1, rows))).grid == (count,)
    with pytest.raises(UsageError, match="share"):
        qld.plan(np.zeros((1, 30)), share=1.0)


def test_grids_and_arrays_that_do_not_fit_are_refused() -> None:
    for grid in ([], [0, 1], [2, 1], [3, 3], [1, 6]):
        with pytest.raises(UsageError, match="grid of k must ascend"):
            deletion.plan(np.zeros((1, 6)), grid=grid)
    with pytest.raises(UsageError, match="draw"):
        deletion.random_plan(6, 0, grid=[2])
    with pytest.raises(UsageError, match="values 2, baseline 3"):
        deletion.curves(np.zeros((2, 1, 1)), np.zeros(3))
    with pytest.raises(UsageError, match="infinity"):
        deletion.curves(np.full((2, 1, 1), np.inf), np.zeros(2))
    made = deletion.plan(np.zeros((2, 6)), grid=[1])
    with pytest.raises(UsageError, match="plan 2, queries 3"):
        deletion.gather(made, np.zeros((1, 1, 3)))
    with pytest.raises(UsageError, match="sets 1, outputs 2"):
        deletion.gather(made, np.zeros((2, 1, 2)))
