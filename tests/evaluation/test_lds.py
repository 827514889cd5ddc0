"""LDS: linear worlds whose answer is known, scipy pair by pair, a real convex case, and what has no answer."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from evaluation.convex import Logistic
from headwater.errors import UsageError
from headwater.evaluation.metrics.bootstrap import interval
from headwater.evaluation.metrics.lds import lds, noise_corrected, protocol, subset_sums


def halves(subsets: int, rows: int, seed: int = 0, keep: float = 0.5) -> np.ndarray:
    generator = np.random.default_rng(seed)
    masks = np.zeros((subsets, rows), dtype=bool)
    for mask in masks:
        mask[generator.choice(rows, round(rows * keep), replace=False)] = True
    return masks


def linear_world(masks: np.ndarray, effects: np.ndarray, noise: float, seeds: int) -> np.ndarray:
    """Losses [subsets, seeds, queries] that every row of the subset lowers by its effect, plus the noise of a seed."""
    generator = np.random.default_rng(9)
    losses = 5.0 - masks.astype(float) @ effects.T
    return losses[:, None] + noise * generator.normal(size=(len(masks), seeds, len(effects)))


@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_the_true_effects_score_one_their_negative_minus_one_and_chance_none(keep: float) -> None:
    masks = halves(60, 40, keep=keep)
    effects = np.random.default_rng(1).normal(size=(50, 40))
    losses = linear_world(masks, effects, noise=0.0, seeds=2)
    np.testing.assert_allclose(lds(effects, masks, losses), 1.0)
    np.testing.assert_allclose(lds(-effects, masks, losses), -1.0)
    np.testing.assert_allclose(lds(effects, masks, -losses, measure="margin"), 1.0)
    chance = lds(np.random.default_rng(2).normal(size=(50, 40)), masks, losses)
    assert abs(chance.mean()) < 4 / np.sqrt(50 * 60)


def test_it_is_scipy_s_rank_correlation_with_the_mean_over_seeds_query_by_query() -> None:
    masks = halves(30, 25)
    generator = np.random.default_rng(3)
    scores = generator.integers(-1, 2, size=(4, 25)).astype(np.float32)  # many ties
    losses = generator.normal(size=(30, 3, 4)).astype(np.float32)
    for query, found in enumerate(lds(scores, masks, losses)):
        sums = [float(sum(scores[query, row] for row in np.flatnonzero(mask))) for mask in masks]
        means = -losses[:, :, query].astype(np.float64).mean(axis=1)
        assert found == pytest.approx(scipy.stats.spearmanr(sums, means).statistic)


def test_true_effects_reach_the_ceiling_that_noise_leaves_and_the_corrected_value_is_one() -> None:
    masks = halves(400, 40)
    effects = np.random.default_rng(1).normal(size=(40, 40))
    losses = linear_world(masks, effects, noise=3.0, seeds=2)
    signal, noise = 40 / 4, 9.0 / 2  # variance of a sum over half of 40 unit normals; of the mean of 2 seeds
    reached = interval(lds(effects, masks, losses))
    ceiling = np.sqrt(signal / (signal + noise))
    corrected = noise_corrected(reached, 6 / np.pi * np.arcsin(ceiling / 2))  # Pearson's r as Spearman's, both normal
    assert reached.value < 0.85
    assert corrected.value == pytest.approx(1.0, abs=0.02)
    assert corrected.high - corrected.low > reached.high - reached.low
    assert np.isnan(noise_corrected(reached, 0.0).value)


def test_a_query_whose_losses_never_change_grades_nobody_and_a_silent_method_counts_zero() -> None:
    masks = halves(20, 12)
    scores = np.random.default_rng(0).normal(size=(4, 12))
    losses = linear_world(masks, scores, noise=0.0, seeds=1)
    losses[:, :, 1] = 0.7
    scores[2] = 0.1  # equal sums of 6 rows, up to rounding
    scores[3] = 0.0
    found = lds(scores, masks, losses)
    np.testing.assert_array_equal(found, [1.0, np.nan, 0.0, 0.0])
    assert interval(found).left_out == 1


def test_sums_that_differ_by_rounding_alone_tie() -> None:
    """Every subset holds one 0.1, one 0.2, one 0.3 and one 0.7, each time in another order."""
    generator = np.random.default_rng(0)
    kinds = generator.permutation(np.repeat([0.1, 0.2, 0.3, 0.7], 15))
    masks = np.zeros((40, 60), dtype=bool)
    for mask in masks:
        mask[[generator.choice(np.flatnonzero(kinds == kind)) for kind in (0.1, 0.2, 0.3, 0.7)]] = True
    scores, losses = kinds[None], generator.normal(size=(40, 1, 1))
    sums = subset_sums(scores, masks)[:, 0]
    assert 0 < np.ptp(sums) < 1e-15
    assert lds(scores, masks, losses).tolist() == [0.0]
    assert scipy.stats.spearmanr(sums, losses[:, 0, 0]).statistic != 0  # what ranking the last bits would say


def test_sums_are_the_same_however_many_rows_are_added_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, scores = halves(5, 30), np.random.default_rng(0).normal(size=(3, 30))
    whole = subset_sums(scores, masks)
    monkeypatch.setattr("headwater.evaluation.metrics.lds._ROWS", 7)
    np.testing.assert_allclose(subset_sums(scores, masks), whole)


@pytest.mark.parametrize(("keep", "least"), [(0.95, 0.95), (0.5, 0.8)])
def test_influence_in_a_convex_world_is_graded_high(keep: float, least: float) -> None:
    world = Logistic.drawn()
    masks = halves(80, 120, keep=keep)
    losses = np.stack([world.losses(mask) for mask in masks])[:, None]
    good = lds(world.influence(), masks, losses)
    assert good.mean() > least
    assert lds(-world.influence(), masks, losses).mean() == pytest.approx(-good.mean())
    assert abs(lds(np.random.default_rng(0).normal(size=(12, 120)), masks, losses).mean()) < 0.15


def test_the_protocol_says_what_was_retrained() -> None:
    assert protocol(halves(80, 1_000), 2) == "500 of 1,000 rows kept (50%); 80 subsets, 2 seeds each"
    assert protocol(halves(80, 1_000, keep=0.98), 1) == "leave-20-out of 1,000 rows; 80 subsets, 1 seed each"
    uneven = np.array([[True, False, False], [True, True, False]])
    assert protocol(uneven, 3) == "1 to 2 of 3 rows kept; 2 subsets, 3 seeds each"


def test_what_does_not_fit_is_refused() -> None:
    masks, scores, losses = halves(4, 6), np.zeros((2, 6)), np.zeros((4, 1, 2))
    with pytest.raises(UsageError, match="scores 6, masks 5"):
        lds(scores, masks[:, :5], losses)
    with pytest.raises(UsageError, match="masks 4, outputs 3"):
        lds(scores, masks, losses[:3])
    with pytest.raises(UsageError, match="scores 2, outputs 1"):
        lds(scores, masks, losses[:, :, :1])
    with pytest.raises(UsageError, match="bool"):
        lds(scores, masks.astype(int), losses)
    with pytest.raises(UsageError, match="at least 2 subsets"):
        lds(scores, masks[:1], losses[:1])
    with pytest.raises(UsageError, match="loss, margin, probability"):
        lds(scores, masks, losses, measure="accuracy")  # type: ignore[arg-type]
    broken = losses.copy()
    broken[1, 0, 1] = np.inf
    with pytest.raises(UsageError, match=r"outputs holds inf at \[1, 0, 1\]"):
        lds(scores, masks, broken)
