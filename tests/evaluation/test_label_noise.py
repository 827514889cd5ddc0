"""Planted wrong labels: perfect, random and constant orders have known values; filtering really retrains."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import builders
import headwater as hw
from headwater.errors import UsageError
from headwater.evaluation.metrics.filtering import accuracy_after_filtering, kept_rows
from headwater.evaluation.metrics.label_noise import auc_ndr, detection_curve, mislabel_auc, ndr, win_rate
from headwater.training import TrainSettings, predict, retrain, train


def planted_rows(rows: int, wrong: int, seed: int = 0) -> np.ndarray:
    planted = np.zeros(rows, dtype=bool)
    planted[np.random.default_rng(seed).permutation(rows)[:wrong]] = True
    return planted


def test_a_perfect_order_gets_one_and_its_reverse_the_least() -> None:
    planted = planted_rows(100, 20)
    scores = np.where(planted, -1.0, 1.0) + np.random.default_rng(0).uniform(-0.5, 0.5, size=100)
    assert auc_ndr(scores, planted) == pytest.approx(1.0)
    assert mislabel_auc(scores, planted) == 1.0
    assert [ndr(scores, planted, percent=p) for p in (10, 20, 30, 100)] == [0.5, 1.0, 1.0, 1.0]
    assert auc_ndr(-scores, planted) == pytest.approx(10 / 90)
    assert mislabel_auc(-scores, planted) == 0.0
    assert ndr(-scores, planted, percent=80) == 0.0


def test_a_constant_score_gets_what_a_random_order_gets_on_average() -> None:
    planted = planted_rows(50, 10)
    assert auc_ndr(np.zeros(50), planted) == pytest.approx(0.5 / 0.9)  # 0.556 at 20%
    assert mislabel_auc(np.zeros(50), planted) == 0.5
    assert ndr(np.zeros(50), planted, percent=30) == pytest.approx(0.3)
    generator = np.random.default_rng(1)
    drawn = [auc_ndr(generator.permutation(50).astype(float), planted) for _ in range(2_000)]
    assert np.mean(drawn) == pytest.approx(0.5 / 0.9, abs=0.01)


def test_the_curve_is_the_mean_over_every_order_of_equal_scores() -> None:
    """Brute force: all orders of 6 rows that respect the scores, counted by hand."""
    scores = np.array([2.0, 1.0, 1.0, 1.0, 2.0, 0.0])
    planted = np.array([True, False, True, False, False, True])
    orders = [o for o in itertools.permutations(range(6)) if (np.diff(scores[list(o)]) >= 0).all()]
    assert len(orders) == 6 * 2
    counted = np.mean([[planted[list(o[:n])].sum() / 3 for n in range(7)] for o in orders], axis=0)
    np.testing.assert_allclose(detection_curve(scores, planted), counted)
    area = sum((one + other) / 2 for one, other in itertools.pairwise(counted))
    assert auc_ndr(scores, planted) == pytest.approx(area / (3 / 2 + 3))
    pairs = [(scores[w] < scores[r]) + 0.5 * (scores[w] == scores[r]) for w in (0, 2, 5) for r in (1, 3, 4)]
    assert mislabel_auc(scores, planted) == pytest.approx(np.mean(pairs))
    assert ndr(scores, planted, percent=100 * 2 / 6) == pytest.approx(counted[2])
    assert ndr(scores, planted, percent=100 * 2.5 / 6) == pytest.approx((counted[2] + counted[3]) / 2)


def test_win_rate_is_the_mean_share_of_trials_won_over_rivals() -> None:
    values = np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.9, 0.7, 0.5], [0.1, 0.1, np.nan, np.nan]])
    # 1 against 2: won, lost, tied, won; both beat 3 in the two trials that it has
    np.testing.assert_allclose(win_rate(values), [(2.5 / 4 + 1) / 2, (1.5 / 4 + 1) / 2, 0.0])
    alone = np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, 3.0]])
    np.testing.assert_array_equal(win_rate(alone), [0.0, 1.0, np.nan])
    with pytest.raises(UsageError, match="at least 2 methods"):
        win_rate(np.zeros((1, 4)))


def test_the_lowest_rows_are_filtered_and_ties_are_shuffled() -> None:
    scores = np.array([0.5, -3.0, 2.0, -1.0, 0.0])
    assert kept_rows(scores, share=0.4).tolist() == [0, 2, 4]
    gone = np.setdiff1d(np.arange(1_000), kept_rows(np.zeros(1_000)))
    assert len(gone) == 300
    assert 400 < gone.mean() < 600
    for share in (0.0, 0.05, 1.0):
        with pytest.raises(UsageError, match="some must go and some must stay"):
            kept_rows(scores, share=share)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[hw.Run, np.ndarray]:
    """A tiny run whose labels are wrong in 20 of 48 rows, and which rows those are."""
    folder: Path = tmp_path_factory.mktemp("noisy")
    builders.tiny_model("bert").save_pretrained(folder / "encoder")
    builders.wordpiece_tokenizer().save_pretrained(folder / "encoder")
    planted = planted_rows(48, 20)
    rows = builders.rows(48)
    for row, wrong in zip(rows, planted, strict=True):
        if wrong:
            row["label"] = "good" if row["label"] == "bad" else "bad"
    settings = TrainSettings(model=str(folder / "encoder"), epochs=6, learning_rate=3e-3, batch_size=8, device="cpu")
    return train(hw.Corpus.read(rows), hw.Classification(max_length=32), folder / "run", settings), planted


def test_filtering_out_the_wrong_rows_and_retraining_lifts_accuracy(noisy: tuple[hw.Run, np.ndarray]) -> None:
    run, planted = noisy
    test = hw.Corpus.read(builders.rows(80, seed=7))
    share = planted.mean()
    found = accuracy_after_filtering(run, np.where(planted, -1.0, 1.0), test, seeds=(0, 1), share=share)
    right = np.flatnonzero(~planted).tolist()
    by_hand = [predict(retrain(run, rows=right, seed=s), run.tokenizer, run.task, test).accuracy for s in (0, 1)]
    assert found.tolist() == by_hand
    seen: list[list[int]] = []

    def spy(run: hw.Run, *, rows: list[int], seed: int) -> object:
        seen.append(rows)
        return run.checkpoints[-1].load()

    noise = accuracy_after_filtering(run, np.where(planted, 1.0, -1.0), test, seeds=(5,), share=share, train=spy)  # type: ignore[arg-type]
    assert len(seen) == 1
    assert set(np.flatnonzero(planted)) <= set(seen[0])
    assert found.min() > noise[0] + 0.1


def test_rows_and_plants_that_do_not_fit_are_refused(noisy: tuple[hw.Run, np.ndarray]) -> None:
    run, planted = noisy
    with pytest.raises(UsageError, match="scores 47, rows 48"):
        accuracy_after_filtering(run, np.zeros(47), run.corpus, seeds=(0,))
    with pytest.raises(UsageError, match="scores 47, planted 48"):
        ndr(np.zeros(47), planted)
    with pytest.raises(UsageError, match="at least one"):
        auc_ndr(np.zeros(48), np.zeros(48, dtype=bool))
    with pytest.raises(UsageError, match="nothing to tell them from"):
        mislabel_auc(np.zeros(48), np.ones(48, dtype=bool))
    with pytest.raises(UsageError, match="percent"):
        ndr(np.zeros(48), planted, percent=0)
    with pytest.raises(UsageError, match=r"scores holds nan at \[0\]"):
        ndr(np.full(48, np.nan), planted)
