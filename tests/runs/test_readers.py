"""Reading a corpus: every source gives the same rows, and every mistake is told with its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import builders
from headwater.errors import DataError
from headwater.runs.corpus import Columns, Corpus

ROWS = [
    {"text": "free prize\nnow", "label": "spam", "source": "a"},
    {"text": 'see "you" soon, ok', "label": "ham", "source": "b"},
    {"text": "  Grüße aus 東京 🦆  ", "label": "ham", "source": None},
]

# Any text that files can hold and that is not blank (no lone surrogates).
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(lambda t: bool(t.strip()))
tables = st.lists(st.fixed_dictionaries({"text": texts, "label": texts}), min_size=1, max_size=8)
on_disk = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def as_jsonl(rows: list[dict[str, Any]], *, ascii_only: bool = False) -> str:
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)


def as_csv(rows: list[dict[str, Any]], separator: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def contents(corpus: Corpus) -> list[tuple[Any, ...]]:
    return [(e.row, e.text, e.text_pair, e.label) for e in corpus]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def test_every_source_gives_the_same_rows_and_hashes(tmp_path: Path) -> None:
    sources: dict[str, Any] = {
        "rows": ROWS,
        "jsonl": write(tmp_path / "a.jsonl", as_jsonl(ROWS)),
        "jsonl, escaped": write(tmp_path / "b.ndjson", as_jsonl(ROWS, ascii_only=True)),
        "jsonl.gz": write(tmp_path / "a.jsonl.gz", gzip.compress(as_jsonl(ROWS).encode())),
        "csv": write(tmp_path / "a.csv", as_csv(ROWS)),
        "csv.gz": write(tmp_path / "a.csv.gz", gzip.compress(as_csv(ROWS).encode())),
        "tsv": write(tmp_path / "a.tsv", as_csv(ROWS, "\t")),
        "byte order mark": write(tmp_path / "bom.csv", b"\xef\xbb\xbf" + as_csv(ROWS).encode()),
        "table": pa.Table.from_pylist(ROWS),
        "pandas": pd.DataFrame(ROWS, index=[7, 8, 9]),
        "pandas, objects": pd.DataFrame(ROWS, dtype=object),
        "pandas, categories": pd.DataFrame(ROWS).astype({"label": "category"}),
        "datasets": datasets.Dataset.from_list(ROWS),
    }
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    sources["parquet"] = tmp_path / "a.parquet"
    expected = [(i, row["text"], None, row["label"]) for i, row in enumerate(ROWS)]
    fingerprints = set()
    for name, source in sources.items():
        corpus = Corpus.read(source)
        assert contents(corpus) == expected, name
        assert "source" in corpus.table.column_names, name
        fingerprints.add(corpus.fingerprint)
    assert len(fingerprints) == 1


@on_disk
@given(rows=tables)
def test_any_text_survives_jsonl_csv_and_parquet(rows: list[dict[str, str]], tmp_path: Path) -> None:
    expected = [(i, row["text"], None, row["label"]) for i, row in enumerate(rows)]
    assert contents(Corpus.read(write(tmp_path / "x.jsonl", as_jsonl(rows)))) == expected
    assert contents(Corpus.read(write(tmp_path / "y.jsonl", as_jsonl(rows, ascii_only=True)))) == expected
    assert contents(Corpus.read(write(tmp_path / "x.csv", as_csv(rows)))) == expected
    Corpus.read(rows).save(tmp_path / "x.parquet")
    assert contents(Corpus.read(tmp_path / "x.parquet")) == expected


def test_class_labels_become_their_names_from_memory_and_from_parquet(tmp_path: Path) -> None:
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["ham", "spam"]))
    made = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    made.to_parquet(str(tmp_path / "hf.parquet"))
    for source in (made, made.select([1, 0]).select([1, 0]), tmp_path / "hf.parquet"):
        assert [e.label for e in Corpus.read(source)] == ["spam", "ham"]
    unlabelled = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features)
    with pytest.raises(DataError, match="row 2, column 'label': there is no label"):
        Corpus.read(unlabelled)


def test_columns_of_mixed_types_and_nested_values_are_kept(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "label": "x", "extra": 1, "deep": {"a": [1, {}]}, "huge": 1 << 80},
        {"text": "b", "label": "y", "extra": "one"},
    ]
    corpus = Corpus.read(rows)
    corpus.save(tmp_path / "c.parquet")
    kept = Corpus.read(tmp_path / "c.parquet").table.to_pylist()
    assert [json.loads(row["extra"]) for row in kept] == [1, "one"]
    assert json.loads(kept[0]["deep"]) == {"a": [1, {}]} and kept[1]["deep"] is None
    assert json.loads(kept[0]["huge"]) == 1 << 80


def test_blank_lines_at_the_end_of_a_file_do_no_harm(tmp_path: Path) -> None:
    assert len(Corpus.read(write(tmp_path / "a.jsonl", as_jsonl(ROWS) + "\n  \n"))) == 3
    assert len(Corpus.read(write(tmp_path / "a.csv", as_csv(ROWS) + "\n\n"))) == 3


def test_a_text_of_a_megabyte_is_read_from_csv(tmp_path: Path) -> None:
    long = "word " * 200_000
    before = csv.field_size_limit()
    assert Corpus.read(write(tmp_path / "a.csv", as_csv([{"text": long, "label": "x"}])))[0].text == long
    assert csv.field_size_limit() == before


GOOD = '{"text": "a", "label": "x"}\n'  # a line that is right
FILES: dict[str, tuple[str, str | bytes, str]] = {
    "empty file": ("a.jsonl", "", r"a\.jsonl: the file is empty"),
    "only blank lines": ("a.jsonl", "\n\n", "nothing but blank lines"),
    "only a header": ("a.csv", "text,label\n", "a header but no rows"),
    "broken json line": (
        "a.jsonl",
        GOOD + '{"text": "b", \n',
        r"a\.jsonl, row 2: not valid JSON \(Expecting .* character 16",
    ),
    "json that is no object": ("a.jsonl", '["a", "x"]\n', "row 1: not a JSON object but list"),
    "deeply nested json": ("a.jsonl", "[" * 100_000 + "\n", "row 1: not valid JSON"),
    "blank line inside": (
        "a.jsonl",
        GOOD + '\n{"text": "b", "label": "x"}\n',
        "row 2: the line is",
    ),
    "blank csv line inside": ("a.csv", "text,label\na,x\n\nb,y\n", "row 2: the line is empty"),
    "too many fields": (
        "a.csv",
        "text,label\na,x\nb,c,y\n",
        r"a\.csv, row 2: 3 fields where the header has 2 \(line 3\)",
    ),
    "too few fields": ("a.tsv", "text\tlabel\na\n", "row 1: 1 fields where the header has 2"),
    "open quote": ("a.csv", 'text,label\na,x\n"b,y\n', "row 2: not valid .csv"),
    "column twice": ("a.csv", "text,text\na,x\n", "two columns called 'text'"),
    "missing column": ("a.csv", "txt,label\na,x\n", r"no column 'text'. It has 'txt', 'label'"),
    "not utf-8": ("a.csv", b"text,label\na,x\n\xff\xfe,y\n", "line 3: not UTF-8"),
    "cut gzip": ("a.jsonl.gz", gzip.compress(as_jsonl(ROWS * 99).encode())[:-20], "damaged or cut short"),
    "no gzip": ("a.jsonl.gz", "plain text", "damaged or cut short"),
    "damaged parquet": ("a.parquet", b"PAR1 nothing PAR1", "not a whole parquet file"),
    "unknown ending": ("a.xlsx", "x", "must end in .jsonl"),
    "lone surrogate": (
        "a.jsonl",
        GOOD + '{"text": "\\ud800!", "label": "x"}\n',
        "row 2, column 'text': holds half of a surrogate pair",
    ),
    "null text": ("a.jsonl", GOOD + '{"label": "x"}\n', "row 2, column 'text': there is no text"),
    "blank text": ("a.csv", "text,label\na,x\n \t,x\n", "row 2, column 'text': the text is empty or blank"),
    "no-break spaces": ("a.csv", "text,label\n\u00a0\u2003,x\n", "row 1, column 'text': the text is empty or blank"),
    "numbers as text": ("a.jsonl", '{"text": 3, "label": "x"}\n', "row 1, column 'text': not text but int64"),
    "a number among texts": (
        "a.jsonl",
        GOOD + '{"text": 3, "label": "x"}\n',
        "row 2, .*not text but int",
    ),
    "null label": ("a.jsonl", '{"text": "a", "label": null}\n', "row 1, column 'label': there is no label"),
    "empty label": ("a.csv", "text,label\na,\n", "row 1, column 'label': there is no label"),
    "labels of two kinds": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n',
        "row 2, .*this label is str",
    ),
    "labels with a point": ("a.jsonl", '{"text": "a", "label": 0.5}\n', "text or a whole number, not double"),
    "labels true and false": ("a.jsonl", '{"text": "a", "label": true}\n', "text or a whole number, not bool"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_used_is_told_with_its_place_in_one_line(case: str, tmp_path: Path) -> None:
    name, content, message = FILES[case]
    with pytest.raises(DataError, match=message) as caught:
        Corpus.read(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


MEMORY: dict[str, tuple[Callable[[], Any], str]] = {
    "no rows": (list, "no rows"),
    "no rows in a data set": (lambda: datasets.Dataset.from_list([]), "no rows"),
    "a missing file": (lambda: "nowhere.csv", "nowhere.csv: no such file"),
    "a dict of splits": (lambda: datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)), r"one split"),
    "a number": (lambda: 3, "cannot be read from int"),
    "a list of texts": (lambda: ["a"], "row 1: not a dict but str"),
    "a surrogate in a frame": (
        lambda: pd.DataFrame({"text": ["a", "b\udfff"], "label": ["x", "y"]}, dtype=object),
        "row 2, column 'text': holds half",
    ),
    "a missing text in a frame": (
        lambda: pd.DataFrame({"text": ["a", float("nan")], "label": ["x", "y"]}),
        "row 2, column 'text': there is no text",
    ),
}


@pytest.mark.parametrize("case", MEMORY)
def test_rows_in_memory_that_cannot_be_used_are_told_in_one_line(case: str) -> None:
    source, message = MEMORY[case]
    with pytest.raises(DataError, match=message) as caught:
        Corpus.read(source())
    assert "\n" not in str(caught.value)


def test_a_hub_data_set_that_cannot_be_had_is_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(DataError, match="hub:nobody/nothing:test: cannot be loaded") as caught:
        Corpus.read("hub:nobody/nothing:test")
    assert "\n" not in str(caught.value)


def test_ids_must_be_there_and_differ() -> None:
    rows = [row | {"id": f"r{i}"} for i, row in enumerate(builders.rows(4))]
    assert [e.id for e in Corpus.read(rows, Columns(id="id"))] == ["r0", "r1", "r2", "r3"]
    rows[3]["id"] = "r1"
    with pytest.raises(DataError, match="row 4, column 'id': the id 'r1' stands in row 2 as well"):
        Corpus.read(rows, Columns(id="id"))
    rows[3]["id"] = None
    with pytest.raises(DataError, match="row 4, column 'id': there is no id"):
        Corpus.read(rows, Columns(id="id"))
