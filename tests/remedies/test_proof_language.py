"""Proofs of language models, on trainings whose answer is known: spoiled rows deleted, good ones spoiled, no effect."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import headwater as hw
from headwater.errors import DataError
from headwater.files import write_json
from headwater.remedies.apply import planned
from headwater.remedies.arms import CONTROL, DELETED, REPAIRED, UNTOUCHED, arms_of, strata
from headwater.remedies.change import Change
from headwater.remedies.cost import trainings_of
from headwater.remedies.differences import Told, difference, interval
from headwater.remedies.fix import LINEAGE, PROOF
from headwater.remedies.page import render_page
from headwater.remedies.plan import Evidence, Plan, Repair
from headwater.remedies.proof import Proof, check_provable, prove, sentence
from headwater.remedies.proof_file import read_proof
from headwater.training import retrain
from language.planted import ENDS, SPOILED, train_planted
from language.texts import PAIR_COLUMNS


@dataclass
class Planted:
    """A run four ninths of whose rows teach the wrong, held-out rows that are right, and a folder for answers."""

    run: hw.Run
    test: hw.Corpus
    folder: Path

    def proved(self, *repairs: Repair, seeds: int = 3) -> Proof:
        plan = Plan(repairs)
        change = planned(plan, self.run.corpus, classes=False)
        return prove(self.run, plan, change, self.test, self.folder, seeds=seeds, show=False)


def planted(kind: str, folder: Path, **changes: Any) -> Planted:
    return Planted(*train_planted(kind, folder, **changes), folder / "answers")


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return planted("llama", tmp_path_factory.mktemp("causal"))


DELETIONS = tuple(Repair("delete", row=row) for row in SPOILED)


@pytest.fixture(scope="module")
def deleted(causal: Planted) -> Proof:
    return causal.proved(*DELETIONS)


def test_deleting_spoiled_rows_is_better_than_nothing_and_than_random_deletions(deleted: Proof) -> None:
    assert deleted.verdicts == {UNTOUCHED: "better", CONTROL: "better"}
    assert [arm.name for arm in deleted.arms] == [UNTOUCHED, REPAIRED, CONTROL]
    assert [arm.rows for arm in deleted.arms] == [90, 50, 50]
    found = deleted.against[UNTOUCHED]
    assert found.loss.high < 0 and found.decisive is found.loss and found.measure.loss == "loss a token"
    assert found.fixed > found.broken and all(
        query.probability[REPAIRED] > query.probability[UNTOUCHED] for query in deleted.fixed
    )
    assert sentence(deleted).startswith("The repair is better than the corpus as it was, and better than")
    assert (
        set(deleted.parts) == {"source"}
        and sum(each[UNTOUCHED].rows for each in deleted.parts["source"].values()) == 54
    )


@pytest.mark.parametrize(("kind", "changes"), [("t5", {"epochs": 20, "learning_rate": 3e-2}), ("bert", {})])
def test_so_it_is_for_other_kinds_of_language_models(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    found = planted(kind, tmp_path, **changes).proved(*DELETIONS)
    assert found.verdicts[UNTOUCHED] == "better", found.against
    assert found.against[UNTOUCHED].loss.value < found.against[UNTOUCHED].loss.high < 0


def test_adapters_are_retrained_as_adapters(tmp_path: Path) -> None:
    made = planted("llama", tmp_path, lora=True, learning_rate=5e-2)
    assert (made.run.need_recipe().initial / "adapter_config.json").is_file()
    found = made.proved(*DELETIONS, seeds=2)
    assert found.against[UNTOUCHED].loss.value < 0 and found.against[UNTOUCHED].rows == 54


def test_spoiling_good_completions_is_harmful_and_told_beside_their_deletion(causal: Planted) -> None:
    good = [row for row in range(90) if row not in SPOILED][:30]
    wrong = dict(zip(ENDS.values(), reversed(ENDS.values()), strict=True))
    labels = [str(causal.run.corpus[row].label) for row in good]
    found = causal.proved(*(Repair("relabel", row=r, label=wrong[old]) for r, old in zip(good, labels, strict=True)))
    assert found.verdicts[UNTOUCHED] == "harmful" and found.against[UNTOUCHED].broken > 0
    assert [arm.name for arm in found.arms] == [UNTOUCHED, REPAIRED, DELETED]  # completions do not go to random rows
    assert sentence(found).startswith("The repair is harmful")


def test_mending_the_completions_is_better(causal: Planted) -> None:
    right = dict(zip(ENDS.values(), reversed(ENDS.values()), strict=True))
    mends = [Repair("relabel", row=row, label=right[str(causal.run.corpus[row].label)]) for row in SPOILED]
    edits = [Repair("edit", row=mend.row, fields={"completion": str(mend.label)}) for mend in mends]
    found = causal.proved(*mends)
    assert found.verdicts[UNTOUCHED] == "better"
    same = causal.proved(*edits)  # the same corpus by another action
    assert same.arms[1].loss == found.arms[1].loss and same.arms[1].changed == {"edit": 40}


def test_one_row_among_many_shows_no_difference(causal: Planted) -> None:
    found = causal.proved(Repair("delete", row=1))
    assert found.verdicts == {UNTOUCHED: "no difference shown", CONTROL: "no difference shown"}


def test_numbers_are_those_of_a_plain_forward_pass(causal: Planted, deleted: Proof) -> None:
    """Every test row by itself through transformers alone: joined, tokenized, shifted and argmaxed here."""
    run = causal.run
    model = retrain(run, corpus=run.corpus.without(set(SPOILED)), seed=run.need_recipe().seed + 1, show=False)
    total, right, tokens = 0.0, 0, 0
    tokenizer = run.tokenizer
    for row in causal.test:
        ids = tokenizer(row.text + str(row.label))["input_ids"] + [tokenizer.eos_token_id]
        first = len(tokenizer(row.text)["input_ids"])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, first - 1 : -1]
        wanted = torch.tensor(ids[first:])
        total += float(cross_entropy(logits.double(), wanted, reduction="sum"))
        right += int((logits.argmax(-1) == wanted).sum())
        tokens += len(wanted)
    arm = next(arm for arm in deleted.arms if arm.name == REPAIRED)
    assert arm.loss[1] == pytest.approx(total / tokens, rel=1e-5)
    assert arm.accuracy[1] == pytest.approx(right / tokens)


def test_a_killed_proof_goes_on_to_the_same_bytes(causal: Planted, deleted: Proof) -> None:
    answers = {path: path.read_bytes() for path in causal.folder.glob("*.npy")}
    some = sorted(answers)[::2]
    some[0].unlink()
    for path in some[1:3]:
        path.write_bytes(b"half")
    assert causal.proved(*DELETIONS).to_dict() == deleted.to_dict()
    assert {path: path.read_bytes() for path in answers} == answers


def test_a_proof_is_read_back_and_drawn_as_it_was(causal: Planted, deleted: Proof, tmp_path: Path) -> None:
    lineage = {
        "run": {"name": "r", "rows": 90},
        "corpus": {"rows": 50},
        "applied": {"delete": 40},
        "deleted": list(SPOILED),
    }
    write_json(tmp_path / PROOF, deleted.to_dict())
    write_json(tmp_path / LINEAGE, lineage)
    again, found = read_proof(tmp_path)
    assert again == deleted and found == lineage
    page = render_page(again, lineage)
    assert page == render_page(deleted, lineage)
    for told in ("nats a target token", "loss a token", "improved", "By source", "Loss of a target token on test rows"):
        assert told in page, told
    assert "true label" not in page.lower() and "points of accuracy" not in page
    saved = deleted.to_dict()
    assert saved["measure"]["name"] == "tokens" and saved["measure"]["decides"] == "loss"


def test_rows_that_the_plan_cites_are_left_out(causal: Planted) -> None:
    cited = Evidence("query", text=causal.test[3].text)
    found = causal.proved(Repair("delete", row=0, evidence=(cited,)), *DELETIONS[1:], seeds=1)
    same = [row.row for row in causal.test if row.text == causal.test[3].text]
    assert found.left_out == len(same) and [query.row for query in found.cited] == same
    assert set(same).isdisjoint(row for row, _ in found.moved)
    assert found.verdicts[UNTOUCHED] == "no difference shown" and any("One seed" in note for note in found.notes)


def test_the_control_draws_from_the_same_sources_unless_one_is_nearly_all_meant(causal: Planted) -> None:
    corpus = causal.run.corpus
    sources = corpus.table.column("source").to_pylist()
    some = Change(frozenset(SPOILED))
    drawn = arms_of(some, corpus, 0, classes=False)[2].change.delete
    wanted = [sorted(sources[row] for row in rows) for rows in (drawn, some.delete)]
    assert wanted[0] == wanted[1] and drawn != some.delete
    whole = Change(frozenset(row for row, source in enumerate(sources) if source == "a"))
    assert set(strata(corpus, whole, classes=False)) == {""}
    drawn = arms_of(whole, corpus, 0, classes=False)[2].change.delete
    assert {sources[row] for row in drawn} == {"a", "b"} and len(drawn) == 45
    assert trainings_of(causal.run, Change(labels={0: "x"}), 2) == 2 * 3 + 1  # untouched, repaired, deleted


def test_a_budget_takes_a_part_of_every_source(
    causal: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headwater.remedies.bench import Bench

    monkeypatch.setattr(Bench, "_share", lambda *_: 0.5)  # what a slow machine would find
    plan = Plan(DELETIONS)
    change = planned(plan, causal.run.corpus, classes=False)
    found = prove(causal.run, plan, change, causal.test, tmp_path, seeds=1, budget=300, show=False)
    assert 44 <= found.rows <= 46 and found.of == 90


def test_tokens_count_each_and_a_verdict_follows_their_interval() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 40, 50)
    losses = generator.uniform(1, 3, (3, 50))
    before = Told(np.zeros((3, 50)), losses, tokens)
    shift = generator.normal(-0.3, 0.05, (3, 50))
    after = Told(np.zeros((3, 50)), losses + shift, tokens)
    found = difference(after, before)
    assert found.loss.value == pytest.approx((shift * tokens).sum() / (3 * tokens.sum()))
    assert (found.word, difference(before, after).word) == ("better", "harmful")
    assert found.fixed == int((shift < -0.1).all(axis=0).sum())
    each = interval(shift, np.full(50, 7))
    plain = interval(shift)
    assert (each.value, each.low, each.high) == pytest.approx((plain.value, plain.low, plain.high))
    assert difference(after.of(np.array([0])), before.of(np.array([0]))).word == "no difference shown"


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_of_a_ratio_holds_the_truth(seeds: int) -> None:
    """Long rows differ from short ones; rows and seeds have effects of their own: 95% hold the mean."""
    generator = np.random.default_rng(7)
    truth = (np.arange(1, 40) * (0.3 + 0.01 * np.arange(1, 40))).mean() / np.arange(1, 40).mean()
    held = 0
    for _ in range(1000):
        tokens = generator.integers(1, 40, 60)
        paired = 0.3 + 0.01 * tokens + generator.normal(0, 0.5, (seeds, 60)) + generator.normal(0, 0.3, (seeds, 1))
        found = interval(paired, tokens)
        held += found.low <= truth <= found.high
    assert held >= 940


def test_rows_that_fill_the_length_are_left_out_before_any_training(causal: Planted, tmp_path: Path) -> None:
    rows = causal.test.table.to_pylist()[:12]
    rows[4]["prompt"] = "the heron loves " * 12  # 36 tokens of the 32 allowed
    test = hw.Corpus.read(rows, PAIR_COLUMNS, name="long")
    found = Planted(causal.run, test, tmp_path).proved(*DELETIONS, seeds=1)
    assert any(
        "long: 1 of 12 rows cannot be asked, and are left out; the first is row 5: its prompt has 36 of the 32" in note
        for note in found.notes
    )
    assert found.test_rows == 11 and 4 not in {row for row, _ in found.moved}
    without = hw.Corpus.read(rows[:4] + rows[5:], PAIR_COLUMNS, name="short")
    same = Planted(causal.run, without, tmp_path).proved(*DELETIONS, seeds=1)
    assert [arm.loss for arm in same.arms] == [arm.loss for arm in found.arms]


def test_where_no_test_row_can_be_asked_nothing_is_trained(causal: Planted, tmp_path: Path) -> None:
    rows = [row | {"prompt": "the heron loves " * 12} for row in causal.test.table.to_pylist()[:3]]
    test = hw.Corpus.read(rows, PAIR_COLUMNS, name="long")
    plan = Plan(DELETIONS)
    with pytest.raises(DataError, match="long: none of its 3 rows can be asked; the first is row 1: its prompt has"):
        check_provable(causal.run, plan, planned(plan, causal.run.corpus, classes=False), test)
    with pytest.raises(DataError, match="none of its 3 rows"):
        Planted(causal.run, test, tmp_path / "answers").proved(*DELETIONS)
    assert not (tmp_path / "answers").exists()


def test_test_rows_need_completions_as_the_training_rows_have(causal: Planted) -> None:
    bare = hw.Corpus(causal.test.table, replace(PAIR_COLUMNS, label=None), "bare")
    with pytest.raises(DataError, match="need completions"):
        Planted(causal.run, bare, causal.folder).proved(*DELETIONS)
