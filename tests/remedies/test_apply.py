"""A plan applied: a new corpus with just these changes, the old one untouched, and an error with its line otherwise."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import builders
from headwater.errors import DataError
from headwater.remedies.apply import kept_rows, planned
from headwater.remedies.arms import arms_of, random_change, stratified
from headwater.remedies.change import Change, label_changes
from headwater.remedies.plan import Header, Plan, Repair
from headwater.runs import Columns, Corpus

ROWS = [row | {"key": f"k{number}", "weight": "mine"} for number, row in enumerate(builders.rows(40))]


@pytest.fixture
def corpus() -> Corpus:
    return Corpus.read(ROWS, Columns(id="key"))


def other(row: int) -> str:
    return "bad" if ROWS[row]["label"] == "good" else "good"


def test_every_action_does_what_it_says_and_the_old_corpus_stays(corpus: Corpus) -> None:
    before = corpus.table
    plan = Plan(
        (
            Repair("delete", row=2),
            Repair("relabel", id="k5", label=other(5), was={"label": ROWS[5]["label"]}),
            Repair("edit", row=7, id="k7", fields={"text": "new words"}, hash=corpus.hashes[7]),
            Repair("weight", row=9, weight=0.25),
            Repair("keep", row=11),
        )
    )
    change = planned(plan, corpus)
    made = change.apply(corpus)
    assert change.counts == {"delete": 1, "relabel": 1, "edit": 1, "weight": 1}
    assert corpus.table is before and corpus.weights is None
    kept = [row for row in range(40) if row != 2]
    assert [row.id for row in made] == [f"k{row}" for row in kept]
    assert [row.label for row in made] == [other(5) if row == 5 else ROWS[row]["label"] for row in kept]
    assert [row.text for row in made] == ["new words" if row == 7 else ROWS[row]["text"] for row in kept]
    assert made.weights == [0.25 if row == 9 else 1.0 for row in kept]
    assert made.columns.weight == "weight_" and set(made.table.column("weight").to_pylist()) == {"mine"}
    assert kept_rows(plan, corpus) == [11]
    edited = Change(texts={11: {"text": "else"}}).apply(corpus)
    assert kept_rows(Plan((Repair("keep", row=11, hash=corpus.hashes[11]),)), edited) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"action": "delete", "row": 40}, "there is no row 40"),
        ({"action": "delete", "id": "k99"}, "has the id 'k99'"),
        ({"action": "delete", "row": 3, "id": "k4"}, "the id 'k4' is row 4, not row 3"),
        ({"action": "delete", "row": 3, "hash": "0" * 32}, "is not what it was when the plan was made: its hash"),
        (
            {"action": "relabel", "row": 3, "label": "fine"},
            "no row is labelled 'fine' so far. The labels are bad, good",
        ),
        ({"action": "relabel", "row": 3, "label": "bad", "was": {"label": "x"}}, "its label is"),
        ({"action": "edit", "row": 3, "fields": {"label": "x"}}, "cannot be edited"),
        ({"action": "edit", "row": 3, "fields": {"text": "  "}}, "blank"),
        ({"action": "keep", "row": 0}, "row 0 is to be kept, but line 1 says it is to be deleted"),
    ],
)
def test_a_line_that_does_not_fit_the_corpus_is_named(corpus: Corpus, wrong: dict[str, Any], says: str) -> None:
    plan = Plan((Repair("delete", row=0), Repair(**wrong))).numbered()
    with pytest.raises(DataError) as raised:
        planned(plan, corpus)
    assert says in str(raised.value)
    assert ", line 2: " in str(raised.value)


def test_a_plan_for_another_corpus_or_that_takes_too_much_is_refused(corpus: Corpus) -> None:
    with pytest.raises(DataError, match="line 1: this plan is for another corpus"):
        planned(Plan((Repair("delete", row=1),), Header(corpus="0" * 32)), corpus)
    planned(Plan((Repair("delete", row=1),), Header(corpus=corpus.fingerprint)), corpus)
    good = [row for row in range(40) if ROWS[row]["label"] == "good"]
    for gone in ([Repair("delete", row=r) for r in good], [Repair("weight", row=r, weight=0) for r in good]):
        with pytest.raises(DataError, match="no row labelled 'good'"):
            planned(Plan(tuple(gone)), corpus)
    with pytest.raises(DataError, match="has no column of ids"):
        planned(Plan((Repair("delete", id="k1"),)), Corpus.read(ROWS))


def test_labels_that_are_numbers_stay_numbers() -> None:
    numbers = Corpus.read([{"text": f"t {n}", "label": n % 2} for n in range(6)])
    made = planned(Plan((Repair("relabel", row=0, label="1"),)), numbers).apply(numbers)
    assert [row.label for row in made] == [1, 1, 0, 1, 0, 1]
    with pytest.raises(DataError, match="not a whole number"):
        planned(Plan((Repair("relabel", row=0, label="one"),)), numbers)


def test_the_control_does_the_same_to_random_rows_of_the_same_labels(corpus: Corpus) -> None:
    labels = [row.label for row in corpus]
    change = Change(frozenset([0, 1, 2]), {4: other(4), 5: other(5), 6: other(6)}, {}, {8: 0.5, 9: 0.0})
    drawn = random_change(change, corpus, seed=3)
    assert Counter(labels[r] for r in drawn.delete) == Counter(labels[r] for r in change.delete)
    assert label_changes(drawn, corpus) == label_changes(change, corpus)
    weights = [Counter((labels[r], w) for r, w in each.weights.items()) for each in (drawn, change)]
    assert weights[0] == weights[1]
    assert len(drawn.rows) == len(change.rows) == 8
    assert drawn == random_change(change, corpus, seed=3) != random_change(change, corpus, seed=4)
    arms = {arm.name: arm.change for arm in arms_of(change, corpus, 3)}
    assert list(arms) == ["untouched", "repaired", "control", "deleted"]
    assert arms["deleted"].delete == {0, 1, 2, 4, 5, 6} and not arms["deleted"].labels
    assert [arm.name for arm in arms_of(Change(texts={3: {"text": "x"}}), corpus, 0)] == [
        "untouched", "repaired", "deleted",
    ]  # fmt: skip


def test_a_stratified_part_keeps_its_share_of_every_label_and_of_the_plan(corpus: Corpus) -> None:
    change = Change(frozenset(range(10)))
    rows = stratified(corpus, change, 0.5)
    for label in ("good", "bad"):
        for inside in (True, False):
            every = [r for r in range(40) if ROWS[r]["label"] == label and (r < 10) == inside]
            assert len(set(rows) & set(every)) == max(1, round(len(every) / 2))
    part = change.within(rows)
    assert [corpus.take(rows)[r].id for r in sorted(part.delete)] == [f"k{r}" for r in rows if r < 10]
