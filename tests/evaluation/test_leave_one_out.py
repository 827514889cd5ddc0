"""Leave-one-out and groups: true retrainings of a convex world agree with its influence function; scipy, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from evaluation.convex import Logistic
from headwater.errors import UsageError
from headwater.evaluation.metrics.bootstrap import interval
from headwater.evaluation.metrics.groups import group_scores, pearson_over_groups
from headwater.evaluation.metrics.leave_one_out import effects, leave_one_out


def left_out(world: Logistic, removals: list[list[int]]) -> np.ndarray:
    """True effects [queries, removals]: every group is left out and the model trained again."""
    every = np.arange(len(world.inputs))
    without = np.stack([world.losses(np.setdiff1d(every, removal)) for removal in removals])[:, None]
    return effects(without, world.losses(every)[None])


def test_influence_in_a_convex_world_correlates_with_leaving_one_out_nearly_to_one() -> None:
    world = Logistic.drawn(rows=100)
    truth = left_out(world, [[row] for row in range(100)])
    influence = world.influence()
    for kind in ("pearson", "spearman"):
        good = leave_one_out(influence, truth, kind=kind)  # type: ignore[arg-type]
        assert good.min() > 0.97
        np.testing.assert_allclose(leave_one_out(-influence, truth, kind=kind), -good)  # type: ignore[arg-type]
        np.testing.assert_allclose(leave_one_out(truth, truth, kind=kind), 1.0)  # type: ignore[arg-type]
    chance = leave_one_out(np.random.default_rng(0).normal(size=truth.shape), truth)
    assert abs(interval(chance).value) < 0.15


def test_it_is_scipy_s_correlation_with_the_difference_of_mean_losses() -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(size=(3, 8)).astype(np.float32)
    without = generator.normal(size=(8, 4, 3)).astype(np.float32)
    everything = generator.normal(size=(2, 3)).astype(np.float32)
    for query in range(3):
        rises = [np.mean(without[row, :, query]) - np.mean(everything[:, query]) for row in range(8)]
        found = effects(without, everything)
        np.testing.assert_allclose(found[query], rises, rtol=1e-5)
        wanted = scipy.stats.pearsonr(scores[query], rises).statistic
        assert leave_one_out(scores, found)[query] == pytest.approx(wanted, rel=1e-5)
        wanted = scipy.stats.spearmanr(scores[query], rises).statistic
        assert leave_one_out(scores, found, kind="spearman")[query] == pytest.approx(wanted)


def test_queries_that_nothing_moves_grade_nobody_and_silent_scores_count_zero() -> None:
    found = np.array([[0.2, 0.2, 0.2], [0.1, 0.2, 0.3]])
    np.testing.assert_array_equal(leave_one_out(np.ones((2, 3)), found), [np.nan, 0.0])


def test_groups_are_graded_by_the_sum_of_their_rows() -> None:
    world = Logistic.drawn(rows=120)
    order = np.random.default_rng(2).permutation(120)
    groups = [part.tolist() for part in np.split(order, 20)]
    truth = left_out(world, groups)
    influence = world.influence()
    good = pearson_over_groups(influence, groups, truth)
    assert good.mean() > 0.95
    sums = np.array([[influence[query, group].sum() for group in groups] for query in range(12)])
    np.testing.assert_allclose(group_scores(influence, groups), sums)
    np.testing.assert_allclose(good, [scipy.stats.pearsonr(a, b).statistic for a, b in zip(sums, truth, strict=True)])
    np.testing.assert_allclose(pearson_over_groups(-influence, groups, truth), -good)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="losses_without 2, losses_all 3"):
        effects(np.zeros((4, 1, 2)), np.zeros((1, 3)))
    with pytest.raises(UsageError, match="scores 4, effects 3"):
        leave_one_out(np.zeros((1, 4)), np.zeros((1, 3)))
    with pytest.raises(UsageError, match="at least 2 removals"):
        leave_one_out(np.zeros((1, 1)), np.zeros((1, 1)))
    with pytest.raises(UsageError, match="pearson, spearman"):
        leave_one_out(np.zeros((1, 2)), np.zeros((1, 2)), kind="kendall")  # type: ignore[arg-type]
    for group in ([], [4], [-1]):
        with pytest.raises(UsageError, match="group 1 "):
            group_scores(np.zeros((1, 4)), [[0], group])
    with pytest.raises(UsageError, match="groups 2, effects 3"):
        pearson_over_groups(np.zeros((1, 4)), [[0], [1]], np.zeros((1, 3)))
