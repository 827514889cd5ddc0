"""Fact tracing: values counted by hand from a plain sort, and what ties and missing facts do."""

from __future__ import annotations

import numpy as np
import pytest

from headwater.errors import UsageError
from headwater.evaluation.metrics.bootstrap import interval
from headwater.evaluation.metrics.retrieval import hit, precision, recall, reciprocal_rank


def test_every_metric_is_what_a_plain_sorted_list_says() -> None:
    generator = np.random.default_rng(0)
    scores = generator.permuted(np.tile(np.arange(40.0), (30, 1)), axis=1)
    right = generator.random((30, 40)) < 0.1
    right[:, 0] = True
    for query in range(30):
        ordered = sorted(range(40), key=lambda row: -scores[query, row])
        ranks = [place + 1 for place, row in enumerate(ordered) if right[query, row]]
        near = [rank for rank in ranks if rank <= 10]
        one = slice(query, query + 1)
        assert reciprocal_rank(scores[one], right[one])[0] == pytest.approx(1 / ranks[0])
        assert reciprocal_rank(scores[one], right[one], depth=10)[0] == pytest.approx(1 / near[0] if near else 0)
        assert hit(scores[one], right[one])[0] == bool(near)
        assert recall(scores[one], right[one])[0] == pytest.approx(len(near) / len(ranks))
        assert precision(scores[one], right[one])[0] == pytest.approx(len(near) / 10)


def test_the_right_rows_themselves_score_one_and_the_worst_order_little() -> None:
    right = np.zeros((5, 60), dtype=bool)
    right[np.arange(5), np.arange(5) * 3] = True
    assert reciprocal_rank(right.astype(float), right).tolist() == [1.0] * 5
    assert recall(right.astype(float), right, k=1).tolist() == [1.0] * 5
    np.testing.assert_allclose(reciprocal_rank(-right.astype(float), right), 1 / 60)
    assert hit(-right.astype(float), right).sum() == 0


def test_a_constant_score_finds_by_chance_not_by_row_number() -> None:
    right = np.zeros((300, 50), dtype=bool)
    right[:, 0] = True
    right = np.random.default_rng(0).permuted(right, axis=1)
    assert hit(np.zeros((300, 50)), right).mean() == pytest.approx(0.2, abs=0.07)
    first = np.zeros((1, 50), dtype=bool)
    first[0, 0] = True
    ranks = [1 / reciprocal_rank(np.zeros((1, 50)), first, seed=seed)[0] for seed in range(300)]
    assert np.mean(ranks) == pytest.approx(25.5, abs=3)


def test_a_fact_that_no_row_states_is_left_out() -> None:
    right = np.array([[True, False], [False, False]])
    for metric in (reciprocal_rank, hit, recall, precision):
        options = {} if metric is reciprocal_rank else {"k": 1}
        found = interval(metric(np.array([[2.0, 1.0], [2.0, 1.0]]), right, **options))  # type: ignore[operator]
        assert (found.value, found.queries, found.left_out) == (1.0, 1, 1)


def test_shapes_and_ks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"right must be bool of the scores' shape \[1, 3\], not bool \[1, 2\]"):
        hit(np.zeros((1, 3)), np.ones((1, 2), dtype=bool), k=1)
    with pytest.raises(UsageError, match="not int64"):
        hit(np.zeros((1, 3)), np.ones((1, 3), dtype=np.int64), k=1)
    with pytest.raises(UsageError, match="k is 10"):
        precision(np.zeros((1, 3)), np.ones((1, 3), dtype=bool))
