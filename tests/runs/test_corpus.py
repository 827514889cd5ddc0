"""A row's identity, and corpora made from corpora."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import builders
from headwater.errors import DataError, HeadwaterError
from headwater.runs.corpus import Columns, Corpus

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(lambda t: bool(t.strip()))


def corpus_of(*rows: tuple[str, str | int]) -> Corpus:
    return Corpus.read([{"text": text, "label": label} for text, label in rows])


def test_the_same_text_under_two_labels_is_two_rows() -> None:
    corpus = corpus_of(("free prize", "spam"), ("free prize", "ham"), ("free prize", "spam"))
    assert len(corpus) == 3
    assert corpus.hashes[0] != corpus.hashes[1]
    assert corpus.hashes[0] == corpus.hashes[2]


@given(a=st.tuples(words, words, words), b=st.tuples(words, words, words))
def test_a_hash_is_equal_exactly_when_texts_and_label_are(a: tuple[str, str, str], b: tuple[str, str, str]) -> None:
    columns = Columns(text_pair="pair")
    made = Corpus.read([dict(zip(("text", "pair", "label"), row, strict=True)) for row in (a, b)], columns)
    assert (made.hashes[0] == made.hashes[1]) == (a == b)


def test_a_number_and_its_digits_are_different_labels() -> None:
    assert corpus_of(("a", 1)).hashes != corpus_of(("a", "1")).hashes


def test_other_columns_row_numbers_and_ids_do_not_count_in_a_hash_but_ids_do_in_a_range() -> None:
    rows = builders.rows(6)
    plain = Corpus.read(rows)
    more = Corpus.read([row | {"n": i, "id": i} for i, row in enumerate(rows)], Columns(id="id"))
    other = Corpus.read([row | {"n": i, "id": i + 1} for i, row in enumerate(rows)], Columns(id="id"))
    assert plain.hashes == more.hashes and plain.fingerprint == more.fingerprint
    assert plain.take([3]).hashes == plain.hashes[3:4]
    assert more.range_digest(0, 3) != other.range_digest(0, 3)
    assert plain.range_digest(0, 3) == plain.take([0, 1, 2, 5]).range_digest(0, 3)
    assert plain.range_digest(0, 3) != plain.range_digest(3, 6)


def test_the_order_of_rows_counts_in_the_fingerprint() -> None:
    corpus = Corpus.read(builders.rows(6))
    assert corpus.take([1, 0, 2, 3, 4, 5]).fingerprint != corpus.fingerprint


def test_rows_are_read_by_number_range_and_iteration() -> None:
    rows = builders.rows(10)
    corpus = Corpus.read(rows)
    assert [e.text for e in corpus] == [row["text"] for row in rows]
    assert [e.row for e in corpus.rows(8, 99)] == [8, 9]
    assert corpus[-1] == corpus[9] and corpus[9].hash == corpus.hashes[9]
    with pytest.raises(IndexError, match="10 rows"):
        corpus[10]


def test_rows_taken_left_out_and_relabelled_leave_the_corpus_as_it_was() -> None:
    rows = builders.rows(6)
    corpus = Corpus.read(rows)
    before = corpus.fingerprint
    assert [e.text for e in corpus.take([4, 1])] == [rows[4]["text"], rows[1]["text"]]
    assert [e.text for e in corpus.without({0, 5})] == [row["text"] for row in rows[1:5]]
    flipped = {"good": "bad", "bad": "good"}[rows[2]["label"]]
    changed = corpus.with_labels({2: flipped})
    assert [e.label for e in changed] == [flipped if i == 2 else row["label"] for i, row in enumerate(rows)]
    assert [a == b for a, b in zip(corpus.hashes, changed.hashes, strict=True)] == [i != 2 for i in range(6)]
    assert corpus.fingerprint == before and corpus.take(range(6)).fingerprint == before


def test_rows_that_are_not_there_and_labels_of_another_kind_are_refused() -> None:
    corpus = corpus_of(("a", "x"), ("b", "y"))
    with pytest.raises(DataError, match="there are 2 rows"):
        corpus.take([2])
    with pytest.raises(DataError, match="there are 2 rows"):
        corpus.with_labels({7: "x"})
    with pytest.raises(DataError, match="row 1, column 'label': the new label 3 is not of the kind"):
        corpus.with_labels({0: 3})
    with pytest.raises(DataError, match="no rows"):
        corpus.without([0, 1])


def test_labels_are_listed_sorted_and_queries_need_none() -> None:
    assert corpus_of(("a", "y"), ("b", "x"), ("c", "y")).label_names() == ["x", "y"]
    assert corpus_of(("a", 10), ("b", 9)).label_names() == [9, 10]
    queries = Corpus.read([{"text": "a"}], Columns(label=None))
    assert queries[0].label is None and queries.label_names() == []


def test_a_saved_corpus_knows_its_columns(tmp_path: Path) -> None:
    columns = Columns(text="text", text_pair="pair", label="label", id="key")
    corpus = Corpus.read([row | {"key": f"k{i}"} for i, row in enumerate(builders.rows(5, pairs=True))], columns)
    corpus.save(tmp_path / "c.parquet")
    back = Corpus.read(tmp_path / "c.parquet")
    assert back.columns == columns and list(back) == list(corpus) and back.name == "c.parquet"
    assert Corpus.read(tmp_path / "c.parquet", Columns(text="pair")).columns.text == "pair"


def test_equal_corpora_are_saved_as_equal_bytes_in_every_process(tmp_path: Path) -> None:
    script = (
        "import json, sys; from headwater.runs.corpus import Corpus; from pathlib import Path\n"
        "Corpus.read(json.loads(sys.argv[2])).save(Path(sys.argv[1]))"
    )
    here, elsewhere = tmp_path / "here.parquet", tmp_path / "elsewhere.parquet"
    arguments = [sys.executable, "-c", script, str(elsewhere), json.dumps(builders.rows(30))]
    subprocess.run(arguments, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    Corpus.read(builders.rows(40)).take(range(30)).save(here)  # a part of a longer one
    assert here.read_bytes() == elsewhere.read_bytes()


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(HeadwaterError, match="the disk is full"):
        Corpus.read(builders.rows(3)).save(tmp_path / "c.parquet")
    assert list(tmp_path.iterdir()) == []


def test_the_table_in_a_notebook_escapes_every_text() -> None:
    shown = corpus_of(("<script>alert(1)</script>", "<b>"))._repr_html_()
    assert "<script>" not in shown and "<b>" not in shown and "&lt;script&gt;" in shown
