"""Random scores are standard normal, and follow from seed, query and row alone."""

import math

import numpy as np
import pytest

from headwater.errors import UsageError
from headwater.methods.random_scores import RandomScores, prepare
from methods.baselines import check_scorer, text_question
from methods.test_tfidf import NUMBER, rows_of


def _scores(rows: list[str], queries: list[str], labels: list[str] | None = None, seed: int = 0) -> np.ndarray:
    asked = rows_of(queries, labels or ["good"] * len(queries))
    question = text_question(rows_of(rows, ["good"] * len(rows)), asked, NUMBER.__getitem__)
    out = np.zeros((len(queries), len(rows)), dtype=np.float32)
    scorer = prepare(question, RandomScores(seed=seed))
    scorer.score(out)
    exact = np.array([scorer.explain(query, np.arange(len(rows))).values for query in range(len(queries))])
    check_scorer(scorer, exact)
    return out


def test_scores_are_standard_normal_and_do_not_follow_each_other() -> None:
    scores = _scores([f"row {n}" for n in range(5000)], [f"query {n}" for n in range(10)])
    values = np.sort(scores.ravel().astype(np.float64))
    normal = np.array([0.5 * (1 + math.erf(z / 2**0.5)) for z in values])
    distance = np.abs(normal - np.arange(1, len(values) + 1) / len(values)).max()
    assert distance < 1.95 / len(values) ** 0.5  # Kolmogorov-Smirnov at one in a thousand
    correlations = np.corrcoef(scores) - np.eye(10)
    assert np.abs(correlations).max() < 4.5 / 5000**0.5


def test_the_same_query_and_row_give_the_same_number_whatever_stands_beside_them() -> None:
    rows, queries = ["one", "two", "three", "two"], ["a", "b", "c"]
    scores = _scores(rows, queries)
    assert (scores[:, 1] == scores[:, 3]).all()
    again = _scores(["two", "zero", "one"], ["c", "a"])
    assert again[0, 0] == scores[2, 1] and again[1, 2] == scores[0, 0] and again[1, 1] not in scores


def test_seed_and_label_change_every_number() -> None:
    rows, queries = ["one", "two"], ["a", "b"]
    plain = _scores(rows, queries)
    assert not np.intersect1d(plain, _scores(rows, queries, seed=1)).size
    assert not np.intersect1d(plain, _scores(rows, queries, ["bad", "bad"])).size
    with pytest.raises(UsageError, match="seed must be 0 to"):
        RandomScores(seed=-1)
