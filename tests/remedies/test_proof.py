"""The proof, on trainings whose answer is known: planted flips mended, good labels spoiled, a row without effect."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import builders
from headwater.errors import DataError, RunError, UsageError
from headwater.files import write_json
from headwater.remedies.apply import planned
from headwater.remedies.arms import CONTROL, DELETED, REPAIRED, UNTOUCHED
from headwater.remedies.differences import Told, difference, interval
from headwater.remedies.fix import PROOF, Fix, fix, train_repaired
from headwater.remedies.page import render_page
from headwater.remedies.plan import Evidence, Plan, Repair
from headwater.remedies.proof import Proof, cited_rows, prove, sentence
from headwater.remedies.proof_file import read_proof
from headwater.runs import Classification, Corpus, Run
from headwater.training import TrainSettings, predict, retrain, train

Prove = Callable[..., Proof]
ROWS = builders.rows(240)
FLIPPED = [row for row in range(160) if ROWS[row]["label"] == "good"][:60]


@pytest.fixture(scope="module")
def test_corpus() -> Corpus:
    rows = [row | {"source": "river" if "river" in row["text"] else "other"} for row in ROWS[160:]]
    return Corpus.read(rows, name="test rows")


@pytest.fixture(scope="module")
def run(test_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """60 good sentences are called bad."""
    corpus = Corpus.read(ROWS[:160]).with_labels(dict.fromkeys(FLIPPED, "bad"))
    settings = TrainSettings(
        model="textcnn", epochs=8, learning_rate=3e-3, batch_size=16, max_length=16, checkpoints=1, device="cpu"
    )
    folder = tmp_path_factory.mktemp("run") / "r"
    return train(corpus, Classification(), folder, settings, eval_corpus=test_corpus)


@pytest.fixture(scope="module")
def proved(run: Run, test_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Prove:
    answers = tmp_path_factory.mktemp("answers")

    def call(plan: Plan, seeds: int = 3, test: Corpus | None = None) -> Proof:
        return prove(run, plan, planned(plan, run.corpus), test or test_corpus, answers, seeds=seeds, show=False)

    return call


@pytest.fixture(scope="module")
def mending() -> Plan:
    cited = Evidence("query", text=ROWS[160]["text"])
    first = Repair("relabel", row=FLIPPED[0], label="good", evidence=(cited,))
    return Plan((first, *(Repair("relabel", row=row, label="good") for row in FLIPPED[1:])))


@pytest.fixture(scope="module")
def mended(proved: Prove, mending: Plan) -> Proof:
    return proved(mending)


def test_mending_planted_flips_is_better_than_nothing_and_than_chance(mended: Proof) -> None:
    assert mended.verdicts[UNTOUCHED] == mended.verdicts[CONTROL] == "better"
    assert sentence(mended) == (
        "The repair is better than the corpus as it was, and better than the same change of random rows."
    )
    accuracy = {arm.name: np.mean(arm.accuracy) for arm in mended.arms}
    assert accuracy[REPAIRED] > max(accuracy[UNTOUCHED], accuracy[CONTROL])
    assert list(accuracy) == [UNTOUCHED, REPAIRED, CONTROL, DELETED]
    against = mended.against[UNTOUCHED]
    assert against.fixed > against.broken and against.accuracy.low > 0
    assert all(query.right[REPAIRED] and not query.right[UNTOUCHED] for query in mended.fixed)


def test_what_the_arms_say_is_what_retraining_says(mended: Proof, run: Run, test_corpus: Corpus) -> None:
    rows = range(1, 80)  # the plan cites test row 0
    corpora = {UNTOUCHED: run.corpus, REPAIRED: run.corpus.with_labels(dict.fromkeys(FLIPPED, "good"))}
    corpora[DELETED] = run.corpus.without(FLIPPED)
    for arm in mended.arms:
        if arm.name in corpora:
            said = predict(retrain(run, corpus=corpora[arm.name], seed=1), run.tokenizer, run.task, test_corpus)
            assert arm.accuracy[1] == pytest.approx(said.correct[rows].mean())
            assert arm.loss[1] == pytest.approx(said.losses[rows].mean(), rel=1e-4)


def test_rows_that_the_plan_cites_prove_nothing(mended: Proof, mending: Plan, test_corpus: Corpus) -> None:
    assert (mended.left_out, mended.test_rows) == (1, 79)
    assert [query.text for query in mended.cited] == [ROWS[160]["text"]]
    by_number = Plan((Repair("delete", row=1, evidence=(Evidence("query", ref=4), Evidence("row", ref=5))),))
    assert cited_rows(by_number, test_corpus, own=True) == {4}
    assert cited_rows(by_number, test_corpus, own=False) == set()
    assert cited_rows(mending, test_corpus.take([3, 0]), own=False) == {1}


def test_parts_add_up(mended: Proof) -> None:
    for kind, names in (("label", ["bad", "good"]), ("source", ["other", "river"])):
        parts = {value: each[UNTOUCHED] for value, each in mended.parts[kind].items()}
        assert list(parts) == names
        whole = mended.against[UNTOUCHED]
        assert sum(part.rows for part in parts.values()) == whole.rows == 79
        assert sum(part.fixed for part in parts.values()) == whole.fixed
        assert sum(part.broken for part in parts.values()) == whole.broken
        total = sum(part.accuracy.value * part.rows for part in parts.values())
        assert total == pytest.approx(whole.accuracy.value * 79)


def test_spoiling_good_labels_is_harmful(run: Run, test_corpus: Corpus, tmp_path: Path) -> None:
    clean = replace(run, corpus=Corpus.read(ROWS[:160]))
    plan = Plan(tuple(Repair("relabel", row=row, label="bad") for row in FLIPPED))
    found = prove(clean, plan, planned(plan, clean.corpus), test_corpus, tmp_path, seeds=3, show=False)
    assert found.verdicts[UNTOUCHED] == "harmful"
    assert sentence(found).startswith("The repair is harmful")


def test_one_row_among_many_shows_no_difference(proved: Prove) -> None:
    found = proved(Plan((Repair("delete", row=5),)))
    assert found.verdicts == {UNTOUCHED: "no difference shown", CONTROL: "no difference shown"}
    assert sentence(found).startswith("No difference shown between the repair and the corpus as it was, and no diff")


def test_weight_0_is_deletion_to_the_last_digit(proved: Prove) -> None:
    deleted = proved(Plan(tuple(Repair("delete", row=row) for row in FLIPPED)), seeds=1)
    silenced = proved(Plan(tuple(Repair("weight", row=row, weight=0.0) for row in FLIPPED)), seeds=1)
    arms = [{arm.name: (arm.accuracy, arm.loss) for arm in each.arms} for each in (deleted, silenced)]
    assert arms[0][REPAIRED] == arms[1][REPAIRED]
    assert arms[0][UNTOUCHED] == arms[1][UNTOUCHED]


def test_finished_retrainings_are_not_done_again(
    run: Run, mending: Plan, mended: Proof, test_corpus: Corpus, tmp_path: Path
) -> None:
    change = planned(mending, run.corpus)
    small = prove(run, mending, change, test_corpus, tmp_path, seeds=1, show=False)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 4
    (broken := sorted(tmp_path.iterdir())[0]).write_bytes(b"half")
    again = prove(run, mending, change, test_corpus, tmp_path, seeds=1, show=False)
    assert again.to_dict() == small.to_dict()
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {name for name in files if files[name] != after[name]} == {broken.name}
    assert [arm.accuracy[:1] for arm in mended.arms] == [arm.accuracy for arm in small.arms]


def test_a_budget_takes_a_stratified_part_and_says_so(
    run: Run, mending: Plan, test_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headwater.remedies.bench import Bench

    monkeypatch.setattr(Bench, "_share", lambda *_: 0.5)  # what a slow machine would find
    told: list[str] = []
    change = planned(mending, run.corpus)
    found = prove(run, mending, change, test_corpus, tmp_path, seeds=1, budget=300, say=told.append, show=False)
    assert (found.rows, found.of) == (80, 160) and "stratified subset, 80 of 160 rows (50%)" in told[0]
    assert told[0] in found.notes and sentence(found).startswith("On a subset of the rows: no difference shown")
    assert any("One seed" in note for note in found.notes)
    with pytest.raises(RunError, match="the time was over before every arm"):
        prove(run, mending, change, test_corpus, tmp_path / "b", budget=0.0, show=False)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_holds_the_truth_however_few_seeds(seeds: int) -> None:
    """Seeds and rows with effects of their own, drawn a thousand times: 95% of the intervals or more hold the mean."""
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        paired = generator.normal(0.3, 1.0, (seeds, 50))
        paired += generator.normal(0, 0.5, (seeds, 1)) + generator.normal(0, 0.5, (1, 50))
        found = interval(paired)
        held += found.low <= 0.3 <= found.high
        assert found.value == pytest.approx(paired.mean())
    assert held >= 940


def test_the_interval_is_that_of_a_paired_t_test_where_rows_agree() -> None:
    means = np.array([0.1, 0.3, 0.2, 0.5])
    found = interval(np.repeat(means[:, None], 6, axis=1))
    wanted = scipy.stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    nothing = Told(np.ones((1, 3), dtype=bool), np.zeros((1, 3)))
    same = difference(nothing, nothing)
    assert (same.word, same.accuracy.low, same.accuracy.high) == ("no difference shown", 0.0, 0.0)


def test_one_seed_shows_no_difference() -> None:
    right, wrong = (Told(np.full((1, 40), good), np.zeros((1, 40))) for good in (True, False))
    found = difference(right, wrong)
    assert found.accuracy.value == 1 and found.p < 1e-6 and found.word == "no difference shown"


def test_what_cannot_be_proved_is_refused(run: Run, test_corpus: Corpus, tmp_path: Path) -> None:
    plan = Plan((Repair("delete", row=5), Repair("keep", row=6)))
    change = planned(plan, run.corpus)
    with pytest.raises(UsageError, match="nothing to prove"):
        prove(run, Plan(plan.repairs[1:]), planned(Plan(plan.repairs[1:]), run.corpus), test_corpus, tmp_path)
    bare = Corpus(test_corpus.table, replace(test_corpus.columns, label=None), "bare")
    with pytest.raises(DataError, match="test rows need labels"):
        prove(run, plan, change, bare, tmp_path)
    cited = Plan((Repair("delete", row=5, evidence=(Evidence("query", text=test_corpus[0].text),)),))
    with pytest.raises(DataError, match="cites every test row"):
        prove(run, cited, change, test_corpus.take([0]), tmp_path)


def test_a_fix_leaves_the_run_alone_and_can_be_trained_and_gone_on_with(
    run: Run, mending: Plan, mended: Proof, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in (run.folder / "headwater").glob("*.*")}
    made: Fix = fix(run, mending, tmp_path / "r2")
    again = fix(run, mending, tmp_path / "r2")
    assert again.lineage == made.lineage and not made.trained
    assert made.lineage["applied"] == {"relabel": 60}
    assert made.lineage["relabelled"] == [{"from": "bad", "to": "good", "rows": 60}]
    assert Corpus.read(made.folder / "corpus.parquet").hashes == made.corpus.hashes
    repaired = train_repaired(made)
    assert repaired.corpus.fingerprint == made.corpus.fingerprint and made.trained
    alone = retrain(run, corpus=made.corpus).state_dict()
    last = repaired.checkpoints[-1].load().state_dict()
    assert all(bool((alone[name] == last[name]).all()) for name in alone)
    assert train_repaired(made).folder == repaired.folder
    assert {path: path.read_bytes() for path in (run.folder / "headwater").glob("*.*")} == before
    with pytest.raises(RunError, match="repair of another run, plan"):
        fix(run, Plan((Repair("delete", row=1),)), tmp_path / "r2")
    with pytest.raises(RunError, match="is the run itself"):
        fix(run, mending, run.folder)
    page = render_page(mended, made.lineage, command="headwater fix <r>")
    assert page == render_page(mended, made.lineage, command="headwater fix <r>")
    assert (
        page.startswith("<!doctype html>")
        and "headwater fix &lt;r&gt;" in page
        and "http" not in page.split("</style>")[1]
    )
    assert json.loads(json.dumps(mended.to_dict()))["verdict"][CONTROL] == "better"
    write_json(made.folder / PROOF, mended.to_dict())
    assert read_proof(made.folder) == (mended, made.lineage)
    with pytest.raises(RunError, match=r"holds no proof\. Make one: headwater fix"):
        read_proof(made.folder.parent)
    write_json(made.folder / PROOF, {"arms": []})
    with pytest.raises(RunError, match=r"proof.json: damaged"):
        read_proof(made.folder)
