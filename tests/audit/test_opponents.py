"""Suspects: rows ordered by how much they oppose clean queries; and, on a real run, they are the mislabelled ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import builders
import headwater as hw
from headwater.audit.opponents import opponents_of
from headwater.errors import UsageError
from headwater.training import TrainSettings, train


def test_harm_is_the_negative_mean_label_by_label() -> None:
    scores = np.array([[1.0, -2.0, 0.0], [3.0, 0.0, 0.0], [-6.0, 4.0, 1.0]], dtype=np.float32)
    plain = opponents_of(scores, aggregate="mean")
    np.testing.assert_allclose(plain.harm, [2 / 3, -2 / 3, -1 / 3])
    assert plain.rows.tolist() == [0, 2, 1]
    by_label = opponents_of(scores, ["ham", "ham", "spam"], aggregate="mean")
    np.testing.assert_allclose(by_label.harm, [-(2.0 - 6.0) / 2, -(-1.0 + 4.0) / 2, -(0.0 + 1.0) / 2])
    assert by_label.rows.tolist() == [0, 2, 1]


def test_unit_and_rank_listen_to_every_query_alike() -> None:
    scores = np.array([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [0.0, -100.0, 1.0]])
    assert opponents_of(scores, aggregate="mean").rows.tolist() == [1, 0, 2]  # one loud query decides the mean
    ranked = opponents_of(scores, aggregate="rank")
    assert ranked.rows.tolist() == [0, 1, 2]
    np.testing.assert_allclose(ranked.harm, [-(0 + 0 + 0.5) / 3, -(0.5 + 0.5 + 0) / 3, -1.0])
    unit = opponents_of(scores)
    assert unit.rows.tolist() == [0, 1, 2]
    lengths = [2**0.5, 2**0.5, (100.0**2 + 1) ** 0.5]
    np.testing.assert_allclose(unit.harm, -(scores / np.array(lengths)[:, None]).mean(axis=0))
    assert opponents_of(scores * np.array([[1e9], [1.0], [1e-9]])).rows.tolist() == [0, 1, 2]


def test_a_query_that_nothing_answers_says_nothing() -> None:
    assert opponents_of(np.array([[0.0, 0.0], [3.0, -4.0]])).harm.tolist() == [-0.3, 0.4]


def test_a_rare_label_speaks_as_loud_as_a_common_one() -> None:
    scores = np.array([[0.0, 1.0, 2.0]] * 9 + [[2.0, 1.0, 0.0]])
    labels = ["ham"] * 9 + ["spam"]
    assert opponents_of(scores, aggregate="rank").rows.tolist() == [0, 1, 2]
    np.testing.assert_allclose(opponents_of(scores, labels, aggregate="rank").harm, [-0.5, -0.5, -0.5])


def test_ties_keep_the_order_of_the_corpus() -> None:
    assert opponents_of(np.zeros((2, 5))).rows.tolist() == [0, 1, 2, 3, 4]


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one query"):
        opponents_of(np.zeros((0, 4)))
    with pytest.raises(UsageError, match="2 queries but 1 labels"):
        opponents_of(np.zeros((2, 4)), ["ham"])
    with pytest.raises(UsageError, match="'median' is not one of unit, rank, mean"):
        opponents_of(np.zeros((2, 4)), aggregate="median")  # type: ignore[arg-type]


def test_mislabelled_rows_of_a_real_run_come_first(tmp_path: Path) -> None:
    rows = builders.rows(200, seed=4)
    flipped = {row: "bad" for row in range(150) if rows[row]["label"] == "good" and "praises" in rows[row]["text"]}
    assert len(flipped) >= 8
    corpus = hw.Corpus.read(rows[:150]).with_labels(flipped)
    clean = hw.Corpus.read(rows[150:])
    settings = TrainSettings(model="textcnn", epochs=4, learning_rate=3e-3, batch_size=16, max_length=16, device="cpu")
    run = train(corpus, hw.Classification(), tmp_path / "r", settings)
    index = hw.Index.build(run)
    labels = [str(row.label) for row in clean]
    worst = opponents_of(index.scores(clean, labels, normalize="train"), labels).rows[: len(flipped)]
    assert len(set(worst.tolist()) & set(flipped)) >= 0.7 * len(flipped)  # by chance: about 8%
