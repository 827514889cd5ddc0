"""Decisions on single rows: a class is named or numbered, a line keeps its end, nothing new is refused."""

from pathlib import Path
from typing import Any

import pytest

import builders
import headwater as hw
from headwater.errors import DataError
from headwater.remedies.apply import planned
from headwater.remedies.decisions import decide, rewording
from headwater.remedies.plan import Plan, Repair
from headwater.remedies.spelling import class_labels, with_line_ends_of


def run_on(folder: Path, rows: list[dict[str, Any]], label2id: dict[str, int] | None = None) -> hw.Run:
    """A run on these rows, made of an untrained model."""
    model = builders.tiny_model(label2id=label2id)
    checkpoint = str(folder / "checkpoint-1")
    model.save_pretrained(checkpoint)
    builders.wordpiece_tokenizer().save_pretrained(checkpoint)
    corpus, task = hw.Corpus.read(rows), hw.Classification(max_length=16)
    return hw.Run.create(folder / "run", checkpoints=[(checkpoint, 0.1)], corpus=corpus, task=task)


@pytest.fixture
def numbered(tmp_path: Path) -> hw.Run:
    """A run whose rows carry 0 and 1 where its model says negative and positive."""
    rows = [{"text": f"the heron {number}", "label": number % 2} for number in range(6)]
    return run_on(tmp_path, rows, {"negative": 0, "positive": 1})


@pytest.mark.parametrize("said", ["positive", "1"])
def test_a_class_is_given_by_its_name_and_by_the_number_that_the_rows_carry(numbered: hw.Run, said: str) -> None:
    repair = decide(numbered, 2, "relabel", label=said, status="accepted")
    assert (repair.label, repair.was) == (1, {"label": 0})
    changed = planned(Plan((repair,)), numbered.corpus).apply(numbered.corpus)
    assert [example.label for example in changed] == [0, 1, 1, 1, 0, 1]


def test_a_label_that_the_row_carries_or_that_is_none_is_refused_however_it_is_spelled(numbered: hw.Run) -> None:
    for said in ("negative", "0"):
        with pytest.raises(DataError, match="carries that label already"):
            decide(numbered, 2, "relabel", label=said, status="accepted")
    with pytest.raises(DataError, match="has no label '2': negative, positive"):
        decide(numbered, 2, "relabel", label="2", status="accepted")


def test_what_an_audit_suggests_is_that_suggestion_however_the_label_is_spelled(numbered: hw.Run) -> None:
    suggested = Repair("relabel", row=2, label=1, status="suggested", source="mislabels", score=0.5)
    for said in ("positive", "1"):
        repair = decide(numbered, 2, "relabel", label=said, suggested=suggested, status="accepted")
        assert (repair.score, repair.source, repair.status) == (0.5, "mislabels", "accepted")


def test_labels_are_offered_as_the_rows_carry_them(numbered: hw.Run, tmp_path: Path) -> None:
    assert class_labels(numbered) == ["0", "1"]
    rows = [{"text": "the heron", "label": "bad"}, {"text": "the river", "label": "good"}]
    assert class_labels(run_on(tmp_path / "named", rows)) == ["bad", "good"]
    digits = [{"text": "the heron", "label": 1}]  # the name of class 0, and no number of a class
    assert class_labels(run_on(tmp_path / "digits", digits, {"1": 0, "0": 1})) == ["0", "1"]


@pytest.fixture
def broken(tmp_path: Path) -> hw.Run:
    """A run whose first row ends its lines by CR LF."""
    rows = [{"text": "the heron\r\nloves bread\r\n", "label": "good"}, {"text": "the river", "label": "bad"}]
    return run_on(tmp_path, rows)


def test_a_text_that_came_back_from_a_field_unchanged_is_no_change(broken: hw.Run) -> None:
    with pytest.raises(DataError, match="holds these very words"):
        decide(broken, 0, "edit", fields={"text": "the heron\nloves bread\n"}, status="accepted")


def test_one_word_that_is_mended_leaves_the_line_ends_as_they_are(broken: hw.Run) -> None:
    repair = decide(broken, 0, "edit", fields={"text": "the heron\nhates bread\n"}, status="accepted")
    assert repair.fields == {"text": "the heron\r\nhates bread\r\n"}
    pieces = rewording(broken, repair)["text"]
    assert [piece for piece in pieces if piece[0] != "same"] == [("old", "\r\nloves"), ("new", "\r\nhates")]


@pytest.mark.parametrize(
    ("held", "typed", "kept"),
    [
        ("a\r\nb", "a\nc", "a\r\nc"),
        ("a\rb", "a\nb\nc", "a\rb\rc"),
        ("a\r\nb\nc", "a\nB\nc", "a\r\nB\nc"),  # as many lines: each keeps its own end
        ("a\r\nb\nc\r\nd", "a\nb", "a\r\nb"),  # fewer: the most frequent
        ("a b", "a\nb", "a\nb"),
        ("a\nb", "a\nc", "a\nc"),
        ("a\r\nb", "a\r\nc\rd", "a\r\nc\rd"),  # no field sends this: it is meant
        ("", "a\nb", "a\nb"),
    ],
)
def test_typed_text_gets_the_line_ends_of_the_text_that_it_mends(held: str, typed: str, kept: str) -> None:
    assert with_line_ends_of(held, typed) == kept
