"""Lexical bias: z by hand, weights that are the best and balance, habits of a model by exact shuffling; the command."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from scipy.sparse import csr_array

import builders
import headwater as hw
from audit.conftest import corpus_of
from audit.conftest import settings as run_settings
from cli.conftest import headwater
from headwater.attribution.word_tables import is_kept, word_table
from headwater.audit.lexical import audit_lexical
from headwater.audit.lexical_bias import Features, bias_of, features_of, model_habits
from headwater.audit.reweighting import _Problem, reweigh
from headwater.errors import UsageError
from headwater.training import train


def drawn(rows: int, lean: float, seed: int) -> tuple[Features, np.ndarray]:
    """Five words in a third of the rows each; the first stands with label 1 by `lean` more than half of the time."""
    generator = np.random.default_rng(seed)
    held = (generator.uniform(size=(rows, 5)) < 0.33).astype(np.float64)
    targets = generator.integers(0, 2, rows)
    leaning = held[:, 0] == 1
    targets[leaning] = generator.uniform(size=int(leaning.sum())) < 0.5 + lean
    return Features(tuple("abcde"), csr_array(held)), targets


def test_words_and_pairs_are_counted_once_a_row() -> None:
    found = features_of(["Not good, not GOOD", "good bread"] * 10, least_rows=10)
    assert found.names == ("bread", "good", "good bread", "good not", "not", "not good")
    assert found.held.toarray()[0].tolist() == [0, 1, 0, 1, 1, 1]
    assert features_of(["", "?"], least_rows=1).held.shape == (2, 0)


def test_z_is_the_distance_from_the_labels_share_in_standard_errors() -> None:
    held = csr_array(np.array([[1.0]] * 40 + [[0.0]] * 60))
    targets = np.array([1] * 30 + [0] * 10 + [1] * 20 + [0] * 40)
    found = bias_of(Features(("u",), held), targets)
    np.testing.assert_allclose(found.z, [[-(0.75 - 0.5) / np.sqrt(0.25 / 40), (0.75 - 0.5) / np.sqrt(0.25 / 40)]])
    doubled = bias_of(Features(("u",), held), targets, np.full(100, 7.0))
    np.testing.assert_allclose(doubled.z, found.z)  # only proportions of weights count


@settings(max_examples=15, deadline=None)
@given(st.floats(0.35, 0.45), st.integers(0, 1000))
def test_weights_are_not_negative_have_mean_one_and_balance(lean: float, seed: int) -> None:
    features, targets = drawn(600, lean, seed)
    found = reweigh(features, targets, floor=0.2)
    assert (found.weights >= 0).all() and found.weights.mean() == pytest.approx(1)
    assert found.before.biased > 0 and found.balanced
    assert np.abs(found.after.z).max() <= found.after.threshold and found.effective >= 0.2


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_weights_stay_equal_where_nothing_is_biased(seed: int) -> None:
    generator = np.random.default_rng(seed)
    half = (generator.uniform(size=(200, 5)) < 0.33).astype(np.float64)
    features = Features(tuple("abcde"), csr_array(np.concatenate([half, half])))  # each row once with either label
    found = reweigh(features, np.repeat([0, 1], 200))
    assert (found.weights == 1).all() and found.effective == 1


def test_the_solver_finds_what_bounded_least_squares_finds() -> None:
    features, targets = drawn(120, 0.4, 5)
    beta = 0.3
    problem = _Problem(features, targets)
    lines = [
        np.sqrt(problem.scale[u, at]) * problem.held.toarray()[:, u] * problem.off[:, at]
        for u in range(6)
        for at in range(problem.off.shape[1])
    ]
    matrix = np.concatenate([np.array(lines), np.sqrt(beta) * np.eye(120)])
    wanted = np.concatenate([np.zeros(len(lines)), np.full(120, np.sqrt(beta))])
    expected = lsq_linear(matrix, wanted, bounds=(0, np.inf), tol=1e-12).x
    np.testing.assert_allclose(problem.solve(np.ones(120), beta), expected, atol=2e-3)


def test_where_time_is_short_the_weights_are_the_best_so_far_and_it_is_said() -> None:
    features, targets = drawn(600, 0.4, 1)
    nothing = reweigh(features, targets, left=lambda: 0.0)
    assert nothing.cut and (nothing.weights == 1).all()
    looks = iter([1.0] * 12)  # a dozen looks at the clock, then the time is over
    some = reweigh(features, targets, floor=0.2, left=lambda: next(looks, 0.0))
    assert some.cut and some.weights.mean() == pytest.approx(1)
    enough = reweigh(features, targets, floor=0.2, left=lambda: 1.0)
    np.testing.assert_array_equal(enough.weights, reweigh(features, targets, floor=0.2).weights)
    assert not enough.cut


def test_a_floor_that_leaves_no_room_is_kept_and_told() -> None:
    features, targets = drawn(600, 0.45, 1)
    found = reweigh(features, targets, floor=0.999)
    assert found.effective >= 0.999 and not found.balanced
    with pytest.raises(UsageError, match="0 to 1"):
        reweigh(features, targets, floor=2)


def test_a_models_habit_is_told_from_chance_by_shuffling() -> None:
    generator = np.random.default_rng(0)
    held = csr_array((generator.uniform(size=(400, 2)) < 0.3).astype(np.float64))
    truth = generator.integers(0, 2, 400)
    lifted = np.clip(0.3 + 0.4 * truth + 0.15 * held.toarray()[:, 0] + generator.normal(0, 0.1, 400), 0, 1)
    probabilities = np.stack([1 - lifted, lifted], axis=1)
    habits, chances = model_habits(held, [(0, 1), (1, 1)], probabilities, truth)
    with_it = held.toarray()[:, 0] == 1
    assert habits[0] == pytest.approx(lifted[with_it].mean() - lifted[~with_it].mean())
    assert chances[0] < 0.01 < 0.05 < chances[1]


def test_shuffling_comes_near_the_exact_distribution() -> None:
    held, truth = csr_array(np.array([[1.0], [1.0], [0.0], [0.0], [0.0], [0.0]])), np.zeros(6, dtype=int)
    lifted = np.array([0.9, 0.8, 0.1, 0.7, 0.3, 0.2])
    _, chances = model_habits(held, [(0, 0)], np.stack([lifted, 1 - lifted], axis=1), truth)
    null = np.array([np.mean(p[:2]) - np.mean(p[2:]) for p in permutations(lifted)])
    exact = np.mean(np.abs(null - null.mean()) >= null.max() - null.mean() - 1e-12)
    assert chances[0] == pytest.approx(exact, abs=0.03)


@pytest.fixture(scope="module")
def leaning(tmp_path_factory: pytest.TempPathFactory) -> hw.Run:
    """Labels are drawn, but for rows with a miller: nine of ten of these are good."""
    generator = np.random.default_rng(0)
    rows = [dict(row) for _ in range(2) for row in builders.rows(240)]
    for row in rows:
        share = 0.9 if "miller" in row["text"] else 0.45
        row["label"] = "good" if generator.uniform() < share else "bad"
    return train(
        corpus_of(rows[:360]),
        hw.Classification(max_length=16),
        tmp_path_factory.mktemp("leaning") / "run",
        run_settings(10),
        eval_corpus=corpus_of(rows[360:], "eval.jsonl"),
        show=False,
    )


def test_a_word_that_gives_the_label_away_is_found_and_the_model_has_the_habit(leaning: hw.Run) -> None:
    found = audit_lexical(leaning, leaning.eval_corpus, pairs=False, show=False)
    told = found.figures["words"][0]
    assert told["word"] in ("an", "old", "miller") and abs(told["z_after"]) < found.figures["threshold"] < abs(
        told["z"]
    )
    assert found.figures["biased_after"] == 0 and found.figures["habits"] > 0
    assert all(suspect.action == "weight" and suspect.weight is not None for suspect in found.suspects)


def test_words_that_say_nothing_of_the_label_are_nothing_to_repair(leaning: hw.Run, tmp_path: Path) -> None:
    rows = [{"text": row.text, "label": label} for row in leaning.corpus.rows(0, 100) for label in ("good", "bad")]
    other = hw.Run.create(
        tmp_path / "other",
        checkpoints=[(leaning.checkpoints[-1].path, 1.0)],
        corpus=hw.Corpus.read(rows, name="both"),
        task=leaning.task,
    )
    found = audit_lexical(other, None, show=False)
    assert found.suspects == () and found.summary.startswith("Nothing to repair")


def test_weights_go_through_fix_and_the_audit_of_the_repaired_run_sees_them(leaning: hw.Run, tmp_path: Path) -> None:
    out, two = tmp_path / "out", tmp_path / "two"
    told = headwater("audit", leaning.folder, "lexical-bias", "--no-pairs", "--out", out, "--json").json
    top = f"top:{len(told['suspects'])}"
    done = headwater(
        "fix", leaning.folder, out / "plan.jsonl", "--accept", top, "--out", two, "--retrain", "--seeds", 1
    )
    assert done.code == 0, done.stderr
    again = headwater("audit", two, "lexical-bias", "--no-pairs", "--json").json
    assert told["figures"]["biased"] > 0 and again["figures"]["biased"] == 0
    assert again["summary"].startswith("Nothing to repair")


def test_a_habit_is_followed_to_the_rows_that_teach_it(leaning: hw.Run) -> None:
    index = hw.Index.build(leaning, show=False)
    assert leaning.eval_corpus is not None
    word_table(index, leaning.eval_corpus, show=False)
    found = audit_lexical(leaning, leaning.eval_corpus, index=index, show=False)
    assert is_kept(index, leaning.eval_corpus)  # the workbench's table is not put aside for the audit's
    (first, *_) = found.figures["teachers"]
    word, label = first["word"], first["label"]
    holding = [row.text for row in leaning.eval_corpus if word in row.text.lower().split()][:64]
    assert first["queries"] == len(holding)
    answers = index.query(holding, [label] * len(holding), len(index), show=False).to_dict()["queries"]
    push = dict.fromkeys(range(len(index)), 0.0)
    for answer in answers:
        for each in [*answer["proponents"], *answer["opponents"]]:
            same = [
                pair["score"] for pair in each["words"] if pair["train"].lower() == word and not pair.get("special")
            ]
            push[each["example"]] += sum(same)
    order = sorted(push, key=lambda row: -push[row])
    whole = sum(value for value in push.values() if value > 0)
    for each, row in zip(first["rows"], order, strict=False):
        assert each["push"] == pytest.approx(push[row], rel=1e-3)
        assert each["share"] == pytest.approx(push[row] / whole, rel=1e-3)
        assert each["label"] == label  # who teaches a habit carries its label
    assert any(f"The habit {word!r} for {label}" in note for note in found.notes)


def test_where_time_is_short_neither_the_floor_nor_silence_stands_for_it(leaning: hw.Run) -> None:
    index = hw.Index.build(leaning, show=False)
    whole = audit_lexical(leaning, leaning.eval_corpus, index=index, pairs=False, show=False)
    followed = len(whole.figures["teachers"])
    assert followed and not any("in time" in note for note in whole.notes)
    cut = audit_lexical(leaning, leaning.eval_corpus, index=index, pairs=False, left=lambda: 0.0, show=False)
    assert any(each["stays"] for each in cut.figures["words"]) and not cut.figures["teachers"]
    assert not any("cannot be balanced at this floor" in note for note in cut.notes)
    assert any("did not suffice to balance more words" in note for note in cut.notes)
    plural = "" if followed == 1 else "s"
    assert f"{followed} habit{plural} could not be followed to rows in time. Give more --budget." in cut.notes
    tight = audit_lexical(leaning, None, pairs=False, floor=0.999, show=False)
    assert any("cannot be balanced at this floor of 0.999" in note for note in tight.notes)


def test_a_habit_is_followed_where_held_out_labels_are_class_numbers(leaning: hw.Run) -> None:
    index = hw.Index.build(leaning, show=False)
    assert leaning.eval_corpus is not None
    rows = [{"text": row.text, "label": leaning.label2id[str(row.label)]} for row in leaning.eval_corpus]
    numbered = hw.Corpus.read(rows, name="numbered.jsonl")
    by_name, by_number = (
        audit_lexical(leaning, held, index=index, show=False) for held in (leaning.eval_corpus, numbered)
    )
    assert by_number.figures["teachers"] and by_number.figures["teachers"] == by_name.figures["teachers"]
