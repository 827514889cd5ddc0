"""What the metrics share: the top rows, ties, correlations, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import checked
from headwater.evaluation.metrics.correlation import merged_ties, pearson, spearman
from headwater.evaluation.metrics.ranking import top_rows


def test_top_rows_are_those_of_a_full_sort() -> None:
    scores = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
    np.testing.assert_array_equal(top_rows(scores, 7), np.argsort(-scores, axis=1)[:, :7])
    np.testing.assert_array_equal(top_rows(scores, 7, lowest=True), np.argsort(scores, axis=1)[:, :7])
    np.testing.assert_array_equal(top_rows(scores, 50), np.argsort(-scores, axis=1))


def test_equal_scores_stand_in_one_shuffled_order_for_every_query_and_every_k() -> None:
    scores = np.zeros((2, 1_000), dtype=np.float32)
    scores[:, 400] = 1.0
    found = top_rows(scores, 100)
    assert (found[:, 0] == 400).all()
    assert (found[0] == found[1]).all()
    assert (found[:, :10] == top_rows(scores, 10)).all()
    rest = found[0, 1:]
    assert 400 < rest.mean() < 600  # by row number they would be rows 0 to 98
    assert len(set(rest)) == 99
    assert set(top_rows(scores, 100, seed=1)[0]) != set(found[0])
    assert 400 not in top_rows(scores, 999, lowest=True)[0]


def test_ks_that_do_not_exist_and_scores_that_are_no_numbers_are_refused() -> None:
    for k in (0, 5):
        with pytest.raises(UsageError, match="there are 4 rows"):
            top_rows(np.zeros((1, 4)), k)
    broken = np.zeros((2, 4))
    broken[1, 2] = np.nan
    with pytest.raises(UsageError, match=r"scores holds nan at \[1, 2\] of \[queries, rows\]"):
        top_rows(broken, 1)
    with pytest.raises(UsageError, match=r"must be \[queries, rows\], none of them empty, but is \[0, 4\]"):
        checked("scores", np.zeros((0, 4)), "queries rows")
    with pytest.raises(UsageError, match="must be numbers"):
        checked("scores", [["a"]], "queries rows")


def test_correlations_are_scipy_s() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(5, 30)), generator.integers(0, 6, size=(5, 30)).astype(float)
    for ours, theirs in ((pearson, scipy.stats.pearsonr), (spearman, scipy.stats.spearmanr)):
        np.testing.assert_allclose(ours(one, other), [theirs(a, b).statistic for a, b in zip(one, other, strict=True)])
        np.testing.assert_allclose(ours(one, -other), -ours(one, other))
    np.testing.assert_allclose(pearson(one * 1e-200, other * 1e200), pearson(one, other))


def test_a_constant_side_has_no_correlation_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = np.array([[0.1, 0.1, 0.1], [1.0, 2.0, 3.0]])
        other = np.array([[1.0, 2.0, 4.0], [1.0, 2.0, 3.0]])
        for correlate in (pearson, spearman):
            found = correlate(one, other)
            assert np.isnan(found[0])
            assert found[1] == pytest.approx(1.0)


def test_values_apart_by_rounding_alone_become_ties() -> None:
    values = np.array([0.3, 0.1 + 0.2, 5.0, -1.0, 0.3])
    assert merged_ties(values, 1e-12).tolist() == [1.0, 1.0, 2.0, 0.0, 1.0]
