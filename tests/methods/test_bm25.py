"""BM25 by the formula of the paper, word by word; bm25-label turns the sign of rows of another class."""

import math

import numpy as np
import pytest

from headwater.errors import UsageError
from headwater.methods.bm25 import BM25, prepare, prepare_label
from methods.baselines import check_scorer, text_question
from methods.test_tfidf import ASKED, LABELS, NUMBER, QUERIES, ROWS, rows_of, signs


def bm25(rows: list[list[str]], query: list[str], row: list[str], k1: float, b: float) -> float:
    mean = sum(len(other) for other in rows) / len(rows)
    total = 0.0
    for word in query:
        df = sum(word in other for other in rows)
        tf = row.count(word)
        if tf:
            idf = math.log(1 + (len(rows) - df + 0.5) / (df + 0.5))
            total += idf * tf / (tf + k1 * (1 - b + b * len(row) / mean))
    return total


def reference(k1: float, b: float) -> np.ndarray:
    def plain(text: str) -> list[str]:
        return "".join(c if c.isalnum() else " " for c in text.lower()).split()

    rows = [plain(text) for text in ROWS]
    return np.array([[bm25(rows, plain(query), row, k1, b) for row in rows] for query in QUERIES])


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.0), (2.0, 1.0)])
def test_scores_are_the_formula(k1: float, b: float) -> None:
    question = text_question(rows_of(ROWS, LABELS), rows_of(QUERIES, ASKED), NUMBER.__getitem__)
    expected = reference(k1, b)
    assert (expected[:2] > 0).any(axis=1).all() and not expected[2:].any()
    check_scorer(prepare(question, BM25(k1=k1, b=b)), expected)


def test_labels_that_disagree_turn_the_sign() -> None:
    question = text_question(rows_of(ROWS, LABELS), rows_of(QUERIES, ASKED), NUMBER.__getitem__)
    check_scorer(prepare_label(question, BM25()), reference(1.5, 0.75) * signs())


def test_a_corpus_without_any_word_scores_0() -> None:
    question = text_question(rows_of(["!", "?"], ["good", "bad"]), rows_of(["word"], ["good"]), NUMBER.__getitem__)
    scores = np.ones((1, 2), dtype=np.float32)
    prepare(question, BM25()).score(scores)
    assert not scores.any()


def test_a_query_scores_the_same_beside_others_and_alone() -> None:
    together = text_question(rows_of(ROWS, LABELS), rows_of(QUERIES, ASKED), NUMBER.__getitem__)
    alone = text_question(rows_of(ROWS, LABELS), rows_of(QUERIES[1:2], ASKED[1:2]), NUMBER.__getitem__)
    rows = np.arange(len(ROWS))
    first = prepare(together, BM25()).explain(1, rows).values
    assert first.tolist() == prepare(alone, BM25()).explain(0, rows).values.tolist()


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="k1 must be 0 or more"):
        BM25(k1=-1.0)
    with pytest.raises(UsageError, match="b must be 0 to 1"):
        BM25(b=1.5)
