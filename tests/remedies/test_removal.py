"""The removal trial: what it reports is what retraining says, and its words are the numbers'."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import builders
from headwater.errors import DataError, RunError, UsageError
from headwater.remedies.removal import RemovalTrial, compare, random_rows_like, removal_trial
from headwater.runs import Classification, Corpus, Run
from headwater.training import TrainSettings, predict, retrain, train


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return builders.rows(240)


@pytest.fixture(scope="module")
def flipped(rows: list[dict[str, str]]) -> list[int]:
    """60 of the first 160 rows: good sentences that the corpus calls bad."""
    return [row for row in range(160) if rows[row]["label"] == "good"][:60]


@pytest.fixture(scope="module")
def run(rows: list[dict[str, str]], flipped: list[int], tmp_path_factory: pytest.TempPathFactory) -> Run:
    corpus = Corpus.read(rows[:160]).with_labels(dict.fromkeys(flipped, "bad"))
    settings = TrainSettings(
        model="textcnn", epochs=8, learning_rate=3e-3, batch_size=16, max_length=16, checkpoints=1, device="cpu"
    )
    return train(corpus, Classification(), tmp_path_factory.mktemp("run") / "r", settings)


@pytest.fixture(scope="module")
def test(rows: list[dict[str, str]]) -> Corpus:
    return Corpus.read(rows[160:])


@pytest.fixture(scope="module")
def trial(run: Run, test: Corpus, flipped: list[int]) -> RemovalTrial:
    return removal_trial(run, flipped, queries=test.take(range(3)), test=test, control_seed=1)


def test_removing_what_was_wrong_helps_and_more_than_chance(trial: RemovalTrial) -> None:
    assert trial.verdict == "helped"
    assert trial.repaired.accuracy > max(trial.untouched.accuracy, trial.random.accuracy)
    assert trial.against_untouched.word == trial.against_random.word == "better"


def test_every_arm_says_what_retraining_says(trial: RemovalTrial, run: Run, test: Corpus) -> None:
    for arm in trial.arms:
        model = retrain(run, rows=[row for row in range(160) if row not in arm.removed])
        predictions = predict(model, run.tokenizer, run.task, test)
        assert arm.accuracies == (predictions.accuracy,)
        for row, outcome in enumerate(arm.queries):
            assert outcome.text == test[row].text and outcome.label == test[row].label
            assert outcome.probability == pytest.approx(float(predictions.true_probabilities[row]), rel=1e-4)
            assert outcome.predicted == (predictions.predicted[row],)
            assert outcome.right == bool(predictions.correct[row])


def test_the_random_arm_removes_as_many_of_each_label(trial: RemovalTrial, run: Run, flipped: list[int]) -> None:
    labels = [row.label for row in run.corpus]
    counts = [Counter(labels[row] for row in arm.removed) for arm in (trial.repaired, trial.random)]
    assert counts[0] == counts[1] == {"bad": 60}
    assert trial.repaired.removed == tuple(flipped)
    assert trial.random.removed == random_rows_like(run.corpus, flipped, seed=1)
    assert trial.random.removed != random_rows_like(run.corpus, flipped, seed=2)
    mixed = random_rows_like(run.corpus, [*flipped[:5], *[r for r in range(160) if labels[r] == "good"][:7]], seed=0)
    assert Counter(labels[row] for row in mixed) == {"bad": 5, "good": 7}


def test_several_seeds_train_every_arm_again(run: Run, test: Corpus, flipped: list[int]) -> None:
    trial = removal_trial(run, flipped, queries=test.take([0]), test=test, seeds=(0, 3))
    assert [len(arm.accuracies) for arm in trial.arms] == [2, 2, 2]
    assert len(trial.untouched.queries[0].predicted) == 2
    other = predict(retrain(run, seed=3), run.tokenizer, run.task, test)
    assert trial.untouched.accuracies[1] == other.accuracy


@pytest.mark.parametrize(
    ("gained", "lost", "p", "word"),
    [
        (0, 0, 1.0, "no clear difference"),
        (5, 0, 0.0625, "no clear difference"),
        (6, 0, 0.03125, "better"),
        (0, 6, 0.03125, "worse"),
        (9, 8, 1.0, "no clear difference"),
        (15, 5, 0.041389, "better"),  # 2 * P(X >= 15), X ~ B(20, 1/2)
    ],
)
def test_the_sign_test_is_exact(gained: int, lost: int, p: float, word: str) -> None:
    one = np.array([1.0] * gained + [0.0] * lost + [1.0, 0.5])
    other = np.array([0.5] * gained + [1.0] * lost + [1.0, 0.5])
    found = compare(one, other)
    assert (found.gained, found.lost) == (gained, lost)
    assert found.p == pytest.approx(p, abs=1e-6)
    assert found.word == word


def test_the_verdict_is_the_numbers_even_when_they_are_bad(trial: RemovalTrial) -> None:
    better, worse, same = compare(*_ones(9, 0)), compare(*_ones(0, 9)), compare(*_ones(2, 2))
    cases = {
        (worse, better): "harmful",
        (same, better): "no clear difference",
        (same, worse): "no clear difference",
        (better, same): "helped, but not clearly more than removing random rows",
        (better, better): "helped",
    }
    for (before, chance), verdict in cases.items():
        assert replace(trial, against_untouched=before, against_random=chance).verdict == verdict


def _ones(gained: int, lost: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([1.0] * gained + [0.0] * lost), np.array([0.0] * gained + [1.0] * lost)


def test_removing_what_was_right_is_called_harmful(run: Run, test: Corpus) -> None:
    good = [row.row for row in run.corpus if row.label == "good"]
    trial = removal_trial(run, good[:-2], queries=test.take([0]), test=test)
    assert trial.repaired.accuracy <= trial.untouched.accuracy
    assert trial.verdict in ("harmful", "no clear difference")


def test_to_dict_is_json_and_complete(trial: RemovalTrial) -> None:
    told = json.loads(json.dumps(trial.to_dict()))
    assert told["verdict"] == "helped"
    assert set(told["arms"]) == {"untouched", "repaired", "random"}
    assert told["arms"]["repaired"]["accuracy"] == trial.repaired.accuracy
    assert told["arms"]["repaired"]["queries"][0].keys() == {"text", "label", "probability", "predicted", "right"}
    assert told["repaired_against"]["random"]["word"] == "better"


def test_rows_that_cannot_be_removed_are_refused(run: Run, test: Corpus, tmp_path: Path) -> None:
    queries = test.take([0])
    with pytest.raises(UsageError, match="no rows"):
        removal_trial(run, [], queries=queries, test=test)
    with pytest.raises(UsageError, match=r"row 160 .* 160 rows"):
        removal_trial(run, [3, 160], queries=queries, test=test)
    good = [row.row for row in run.corpus if row.label == "good"]
    with pytest.raises(DataError, match="leaves none labelled 'good'"):
        removal_trial(run, good, queries=queries, test=test)
    made = Run.create(tmp_path / "m", checkpoints=[(run.checkpoints[-1].path, 1.0)], corpus=run.corpus, task=run.task)
    with pytest.raises(RunError, match="cannot be trained again"):
        removal_trial(made, [1], queries=queries, test=test)
