"""Near-duplicates: found as comparing all pairs finds them, conflicts left to people, leaks told in the metrics."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import builders
import headwater as hw
from audit.conftest import corpus_of
from audit.conftest import settings as training
from cli.conftest import headwater
from headwater.audit.duplicates import audit_duplicates
from headwater.audit.near import Near, clusters, near_pairs, pieces
from headwater.errors import UsageError
from headwater.training import predict, train

LONG = "an old miller praises the noisy mill beside the river every single morning of the long winter"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hw.Run:
    rows = builders.rows(100)
    rows[10] = {"text": LONG, "label": "good"}
    rows[20] = {"text": LONG.upper(), "label": "good"}
    rows[30] = {"text": LONG.replace("long", "cold"), "label": "good"}
    rows[40] = {"text": rows[41]["text"], "label": "bad" if rows[41]["label"] == "good" else "good"}
    held = rows[80:]
    held[3] = {"text": f"{LONG}!", "label": "bad"}
    settled = train(
        corpus_of(rows[:80]),
        hw.Classification(max_length=16),
        tmp_path_factory.mktemp("twice") / "run",
        training(),
        eval_corpus=corpus_of(held, "eval.jsonl"),
        show=False,
    )
    return settled


def test_repeats_are_deleted_but_for_the_first_and_conflicts_are_left_to_people(run: hw.Run) -> None:
    found, _ = audit_duplicates(run, None, threshold=0.7, show=False)
    told = {suspect.row: suspect for suspect in found.suspects}
    assert {20, 30} <= told.keys() and 10 not in told
    assert (told[20].action, told[20].group) == ("delete", told[30].group)
    assert {told[row].action for row in (40, 41)} == {"keep"} and "conflict" in str(told[40].group)
    assert [suspect.action for suspect in found.suspects][:2] == ["keep", "keep"]
    change = found.plan(run)
    assert {repair.row for repair in change.repairs if repair.action == "delete"} == set(told) - {40, 41}


def test_leaked_rows_are_told_with_the_metrics_without_them(run: hw.Run) -> None:
    assert run.eval_corpus is not None
    found, leaks = audit_duplicates(run, run.eval_corpus, threshold=0.7, show=False)
    mine = next(leak for leak in leaks if leak.held_out == 3)
    assert mine.train in (10, 20) and mine.similarity > 0.9 and not mine.same_label
    told = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, run.eval_corpus, show=False)
    rest = [row for row in range(20) if row not in {leak.held_out for leak in leaks}]
    assert found.figures["metrics"]["without leaks"]["accuracy"] == pytest.approx(told.correct[rest].mean())
    assert found.figures["metrics"]["all"]["accuracy"] == pytest.approx(told.accuracy)
    assert any("near-duplicate in training" in note for note in found.notes)


def test_different_texts_have_nothing_to_repair(run: hw.Run, tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in (("warm bread", "good"), ("a long cold winter", "bad"))]
    other = hw.Run.create(
        tmp_path / "other",
        checkpoints=[(run.checkpoints[-1].path, 1.0)],
        corpus=hw.Corpus.read(rows, name="two"),
        task=run.task,
    )
    found, leaks = audit_duplicates(other, None, show=False)
    assert found.suspects == () and leaks == () and found.summary.startswith("Nothing to repair")


words = st.lists(st.sampled_from(("river", "mill", "bread", "winter", "heron", "rain", "noisy", "warm")), min_size=3)


@settings(max_examples=40, deadline=None)
@given(st.lists(words.map(" ".join), max_size=12))
def test_pairs_are_those_of_comparing_all_with_all(texts: list[str]) -> None:
    found = {(pair.first, pair.second): pair.similarity for pair in near_pairs(texts, threshold=0.8, show=False).pairs}
    groups = clusters(len(texts), near_pairs(texts, show=False).pairs)
    linked = {row: group for group, rows in enumerate(groups) for row in rows}
    for one, two in combinations(range(len(texts)), 2):
        a, b = pieces(texts[one]), pieces(texts[two])
        similarity = len(a & b) / len(a | b)
        if (one, two) in found:
            assert similarity >= 0.8 and found[one, two] == pytest.approx(similarity)
        if similarity >= 0.95:  # far above the threshold none is missed
            assert one in linked and linked[one] == linked[two]


def test_clusters_are_what_hangs_together_largest_first() -> None:
    texts = ["warm bread today", "x" * 20, "WARM  bread today", "x" * 21, "warm bread todaY"]
    assert clusters(5, near_pairs(texts, show=False).pairs) == [[0, 2, 4], [1, 3]]


def test_where_time_is_short_the_first_texts_are_compared_and_it_is_said(run: hw.Run) -> None:
    assert near_pairs(["a", "a"], left=lambda: 1.0, show=False).compared == 2
    assert near_pairs(["a", "a"], left=lambda: 0.0, show=False) == Near([], 0)
    found, leaks = audit_duplicates(run, run.eval_corpus, left=lambda: 0.0, show=False)
    assert not found.suspects and not leaks and found.cost.rows == 0
    assert found.how_many == "No two of the first 0 of 80 rows are alike by 0.8 or more."
    assert found.notes == (
        "The time sufficed to compare the first 0 of 80 rows, and none of 20 held-out ones. Give more --budget.",
        "No held-out row was compared, so nothing is said of leaks.",
    )


def test_of_held_out_rows_compared_in_part_no_metrics_are_told(run: hw.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.audit.near._GLANCE", 42)  # looks at text 84: four held-out ones are done by then
    held = run.eval_corpus
    looks = iter((1.0, 1.0, 0.0))
    found, leaks = audit_duplicates(run, held, threshold=0.7, left=lambda: next(looks), show=False)
    whole, every = audit_duplicates(run, held, threshold=0.7, show=False)
    assert found.how_many == whole.how_many and "of 80 rows repeat" in found.how_many
    assert leaks == tuple(leak for leak in every if leak.held_out < 4) and leaks
    assert found.figures["metrics"] == {} and found.figures["compared"] == {"rows": 80, "held_out": 4}
    assert found.notes[0].startswith("The time sufficed to compare all rows, and the first 4 of 20 held-out ones.")
    assert f"{len(leaks)} of 4 held-out rows" in found.notes[-1] and "without leaks are not told" in found.notes[-1]


def test_short_and_empty_texts_are_compared_whole() -> None:
    assert pieces("Ab") == {"ab"} and pieces("") == {""} and pieces("abcdef") == {"abcde", "bcdef"}


def test_the_command_tells_all_of_it(run: hw.Run, tmp_path: Path) -> None:
    told = headwater("audit", run.folder, "duplicates", "--threshold", 0.7, "--out", tmp_path / "o", "--json").json
    assert told["audit"] == "duplicates" and told["figures"]["leaks"] and told["figures"]["conflicts"]
    page = (tmp_path / "o" / "worklist.html").read_text(encoding="utf-8")
    assert "relabel or delete what is wrong" in page
    assert "threshold" in headwater("audit", run.folder, "duplicates", "--threshold", 7).error


def test_a_threshold_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="above 0"):
        near_pairs(["a"], threshold=0)
