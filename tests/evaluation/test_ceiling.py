"""The noise ceiling: worlds whose signal and noise are known, so that the answer is a formula."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats

from headwater.errors import UsageError
from headwater.evaluation.ceiling import ceiling
from headwater.evaluation.metrics.bootstrap import interval
from headwater.evaluation.metrics.lds import lds


def world(subsets: int, seeds: int, queries: int, noise: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Signals of variance 1 [subsets, queries], and what is measured [subsets, seeds, queries]."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=(subsets, queries))
    return signal, signal[:, None] + noise * generator.normal(size=(subsets, seeds, queries))


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
@pytest.mark.parametrize("noise", [0.5, 1.0, 2.5])
def test_reliability_and_ceiling_are_the_closed_form_of_signal_and_noise(seeds: int, noise: float) -> None:
    _, outputs = world(300, seeds, 120, noise)
    true = 1 / (1 + noise**2 / seeds)
    for kind, highest in (("pearson", np.sqrt(true)), ("spearman", 6 / np.pi * np.arcsin(np.sqrt(true) / 2))):
        found = ceiling(outputs, kind=kind)  # type: ignore[arg-type]
        assert found.mean_reliability == pytest.approx(true, abs=0.02)
        assert found.mean.value == pytest.approx(highest, abs=0.015)
        assert found.mean.low < found.mean.value < found.mean.high
        assert np.median(found.highest) == pytest.approx(highest, abs=0.05)


def test_the_true_signal_reaches_the_ceiling_and_no_more() -> None:
    """The signal as the score of rows that are subsets: what an all-knowing method would get as its LDS."""
    signal, outputs = world(200, 3, 150, 1.5, seed=4)
    reached = interval(lds(signal.T, np.eye(200, dtype=bool), outputs, measure="margin")).value
    assert reached == pytest.approx(ceiling(outputs).mean.value, abs=0.02)
    pairs = zip(signal.T, outputs.mean(axis=1).T, strict=True)
    found = np.mean([scipy.stats.pearsonr(true, mean).statistic for true, mean in pairs])
    assert found == pytest.approx(ceiling(outputs, kind="pearson").mean.value, abs=0.02)


def test_two_seeds_are_one_split_as_scipy_correlates_them() -> None:
    _, outputs = world(30, 2, 5, 1.0)
    found = ceiling(outputs, kind="pearson")
    for query in range(5):
        half = scipy.stats.pearsonr(outputs[:, 0, query], outputs[:, 1, query]).statistic
        assert found.halves[query] == pytest.approx(half)
        assert found.reliability[query] == pytest.approx(2 * half / (1 + half))
        assert found.highest[query] == pytest.approx(np.sqrt(2 * half / (1 + half)))


def test_many_seeds_agree_with_the_analysis_of_variance() -> None:
    """An oracle that splits nothing: variance between subsets and within, for all queries together."""
    _, outputs = world(150, 8, 60, 2.0, seed=1)
    within = outputs.var(axis=1, ddof=1).mean()
    between = outputs.mean(axis=1).var(axis=0, ddof=1).mean()
    assert ceiling(outputs, kind="pearson").mean_reliability == pytest.approx(1 - within / 8 / between, abs=0.02)
    thirteen = ceiling(world(60, 13, 20, 2.0)[1])  # more splits than are taken
    assert thirteen.mean_reliability == pytest.approx(1 / (1 + 4 / 13), abs=0.05)


def test_pure_noise_has_a_ceiling_near_zero_and_no_noise_one_of_one() -> None:
    generator = np.random.default_rng(2)
    noise = ceiling(generator.normal(size=(200, 2, 200)))
    assert noise.mean.value < 0.2  # the root of a mean of 200 correlations that are 0 give or take 0.07
    assert (noise.highest >= 0).all() and (noise.halves < 0).any()
    pure = ceiling(np.repeat(generator.normal(size=(40, 1, 3)), 3, axis=1))
    assert pure.mean.value == pytest.approx(1.0) and pure.mean_reliability == pytest.approx(1.0)


def test_a_query_that_never_varies_is_left_out_and_counted() -> None:
    _, outputs = world(40, 2, 6, 1.0)
    outputs[:, :, 2] = 0.25
    found = ceiling(outputs)
    assert np.isnan(found.halves[2]) and np.isnan(found.highest[2])
    assert (found.mean.queries, found.mean.left_out) == (5, 1)
    still = ceiling(np.ones((5, 2, 3)))
    assert np.isnan(still.mean.value) and still.mean.left_out == 3
    assert json.loads(json.dumps(still.to_dict()))["highest"] is None


def test_the_same_outputs_give_the_same_answer_in_any_order_of_subsets() -> None:
    _, outputs = world(50, 4, 8, 1.0)
    found = ceiling(outputs)
    again = ceiling(outputs[np.random.default_rng(0).permutation(50)])
    np.testing.assert_allclose(found.highest, again.highest)
    assert found.to_dict() == ceiling(outputs).to_dict()


def test_what_says_nothing_of_noise_is_refused() -> None:
    _, outputs = world(10, 1, 3, 1.0)
    with pytest.raises(UsageError, match="one seed a subset does not tell signal from noise"):
        ceiling(outputs)
    with pytest.raises(UsageError, match="at least 3 subsets, not 2"):
        ceiling(world(2, 2, 3, 1.0)[1])
    with pytest.raises(UsageError, match="not one of spearman, pearson"):
        ceiling(world(4, 2, 3, 1.0)[1], kind="kendall")  # type: ignore[arg-type]
    outputs[0, 0, 0] = np.nan
    with pytest.raises(UsageError, match="cannot be graded"):
        ceiling(outputs)
