"""Intervals: their ends are the quantiles of the known distribution of the mean; pairs are compared as pairs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from headwater.errors import UsageError
from headwater.evaluation.metrics.bootstrap import band, difference, interval, interval_of


def test_zeros_and_ones_have_the_interval_of_the_binomial_distribution() -> None:
    for ones, queries in ((3, 10), (12, 40), (250, 500)):
        values = np.repeat([1.0, 0.0], [ones, queries - ones])
        found = interval(values, draws=40_000)
        exact = scipy.stats.binom(queries, ones / queries).ppf([0.025, 0.975]) / queries
        assert found.value == pytest.approx(ones / queries)
        assert abs(found.low - exact[0]) <= 1 / queries + 1e-9
        assert abs(found.high - exact[1]) <= 1 / queries + 1e-9


def test_the_interval_is_that_of_scipy_s_percentile_bootstrap() -> None:
    values = np.random.default_rng(1).standard_gamma(0.7, size=80)
    found = interval(values, draws=50_000, level=0.9)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=50_000, confidence_level=0.9, rng=5
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(found.low - theirs.low) < 0.02 * width
    assert abs(found.high - theirs.high) < 0.02 * width


def test_the_same_seed_gives_the_same_interval_and_another_a_slightly_different_one() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert interval(values) == interval(values.copy())
    assert interval(values).low != interval(values, seed=1).low


def test_queries_without_a_value_are_left_out_and_counted() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan, 8.0])
    found = interval(values)
    assert (found.value, found.queries, found.left_out) == (4.0, 3, 2)
    known = interval(values[[0, 2, 4]])
    assert (found.low, found.high) == (known.low, known.high)


def test_without_two_queries_there_is_no_interval() -> None:
    none = interval(np.array([np.nan]))
    assert np.isnan([none.value, none.low, none.high]).all()
    assert (none.queries, none.left_out) == (0, 1)
    one = interval(np.array([2.0]))
    assert one.value == 2.0
    assert np.isnan([one.low, one.high]).all()


def test_a_small_steady_difference_between_noisy_methods_is_seen_in_pairs_only() -> None:
    noise = np.random.default_rng(0).normal(size=50)
    one, other = noise + 0.1, noise + 0.01 * np.random.default_rng(1).normal(size=50)
    assert interval(one).low < interval(other).value
    paired = difference(one, other)
    assert 0 < paired.low < 0.1 < paired.high + 0.01
    swapped = difference(other, one)
    np.testing.assert_allclose([swapped.low, swapped.high], [-paired.high, -paired.low], atol=2e-4)
    other[3] = np.nan
    assert difference(one, other).left_out == 1


def test_a_band_holds_the_interval_of_each_point() -> None:
    values = np.random.default_rng(2).normal(size=(20, 4)) + np.arange(4)
    whole = band(values)
    for point in range(4):
        single = interval(values[:, point])
        np.testing.assert_allclose(whole[:, point], [single.value, single.low, single.high])
    values[5, 2] = np.nan
    np.testing.assert_allclose(band(values), band(np.delete(values, 5, axis=0)))
    assert np.isnan(band(values[5:6])).all()


def test_a_statistic_that_is_no_mean_is_resampled_by_its_queries() -> None:
    values = np.random.default_rng(3).normal(size=40)
    by_hand = interval_of(40, lambda queries: float(values[queries].mean()), draws=20_000)
    known = interval(values, draws=20_000)
    assert by_hand.value == pytest.approx(known.value)
    assert by_hand.low == pytest.approx(known.low, abs=0.02)
    assert by_hand.high == pytest.approx(known.high, abs=0.02)
    with pytest.raises(UsageError, match="no number"):
        interval_of(3, lambda queries: float("nan"))
    with pytest.raises(UsageError, match="at least one query"):
        interval_of(0, lambda queries: 1.0)


def test_infinities_and_lengths_that_differ_are_refused() -> None:
    with pytest.raises(UsageError, match="infinite"):
        interval(np.array([1.0, np.inf]))
    with pytest.raises(UsageError, match="one 2, other 3"):
        difference(np.zeros(2), np.zeros(3))
    with pytest.raises(UsageError, match="level"):
        interval(np.zeros(3), level=95)
