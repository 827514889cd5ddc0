"""Stability over seeds and hubness: against scipy and plain counting; equal, opposite, unrelated and silent scores."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from headwater.errors import UsageError
from headwater.evaluation.metrics.hubness import hubness
from headwater.evaluation.metrics.stability import stability, top_overlap


def test_stability_is_the_mean_of_scipy_s_correlation_over_pairs_of_seeds() -> None:
    scores = np.random.default_rng(0).integers(0, 9, size=(3, 4, 30)).astype(float)
    for query, found in enumerate(stability(scores)):
        pairs = [
            scipy.stats.spearmanr(scores[a, query], scores[b, query]).statistic for a, b in combinations(range(3), 2)
        ]
        assert found == pytest.approx(np.mean(pairs))


def test_equal_opposite_unrelated_and_silent_scores() -> None:
    one = np.random.default_rng(0).normal(size=(5, 400))
    np.testing.assert_allclose(stability(np.stack([one, 2 * one + 1])), 1.0)
    np.testing.assert_allclose(stability(np.stack([one, -one])), -1.0)
    other = np.random.default_rng(1).normal(size=(5, 400))
    assert np.abs(stability(np.stack([one, other]))).max() < 0.15
    silent = np.zeros((2, 1, 400))
    assert np.isnan(stability(silent)).all()
    np.testing.assert_allclose(stability(np.concatenate([one[None, :1], one[None, :1], silent[:1]])), [1 / 3])


def test_overlap_counts_the_rows_that_two_lists_share() -> None:
    scores = np.array([[[9, 8, 7, 0, 1, 2]], [[9, 8, 0, 7, 1, 2]], [[0, 1, 2, 9, 8, 7]]], dtype=float)
    assert top_overlap(scores, k=3).tolist() == [pytest.approx((2 / 3 + 0 + 1 / 3) / 3)]
    one = np.random.default_rng(0).normal(size=(8, 300))
    assert (top_overlap(np.stack([one, one]), k=20) == 1).all()
    assert (top_overlap(np.stack([one, -one]), k=20) == 0).all()
    assert top_overlap(np.zeros((20, 1, 100)), k=20)[0] == pytest.approx(0.2, abs=0.03)  # ties are no agreement
    other = np.random.default_rng(1).normal(size=(8, 300))
    assert top_overlap(np.stack([one, other]), k=60).mean() == pytest.approx(0.2, abs=0.08)


def test_one_seed_is_not_enough() -> None:
    for shape in ((1, 2, 5), (2, 2, 1)):
        with pytest.raises(UsageError, match="at least 2 seeds and 2 rows"):
            stability(np.zeros(shape))


def test_hubness_counts_distinct_rows_and_the_commonest() -> None:
    scores = np.array([[5.0, 4, 0, 0.1, 0.2], [5, 0, 4, 0.1, 0.2], [0, 0.1, 5, 4, 0.2], [5, 4, 0, 0.1, 0.2]])
    found = hubness(scores, k=2)
    assert (found.distinct, found.places, found.row, found.largest) == (4, 8, 0, 0.75)
    everywhere = np.random.default_rng(0).normal(size=(60, 500))
    everywhere[:, 7] += 100
    assert (hubness(everywhere).row, hubness(everywhere).largest) == (7, 1.0)


def test_random_and_silent_scores_have_as_many_distinct_rows_as_chance_says() -> None:
    for scores in (np.random.default_rng(0).normal(size=(60, 500)), np.zeros((60, 500))):
        found = hubness(scores, k=20)
        drawn = [
            len(
                {
                    row
                    for query in range(60)
                    for row in np.random.default_rng((seed, query)).choice(500, 20, replace=False)
                }
            )
            for seed in range(20)
        ]
        assert found.by_chance == pytest.approx(np.mean(drawn), rel=0.01)
        assert found.distinct == pytest.approx(found.by_chance, rel=0.05)
