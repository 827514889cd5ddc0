"""`headwater index --corpus` and `headwater compact`: an index of the rows of today."""

import json
from collections.abc import Callable
from pathlib import Path

from cli.conftest import headwater, write_rows


def _rows(run: Path) -> list[dict[str, str]]:
    import headwater as hw

    return hw.Corpus.read(run / "index" / "examples.parquet").table.to_pylist()


def test_an_index_grows_by_a_file_and_is_compacted(copied: Callable[[], Path], tmp_path: Path) -> None:
    run = copied()
    rows = _rows(run)
    label = rows[0]["label"]
    now = [*rows[2:], {"text": "the newest row of all, about boats", "label": label}]
    file = write_rows(tmp_path / "today.jsonl", now)
    shown = headwater("index", run, "--corpus", file)
    assert shown.code == 0 and f"{len(now):,} rows" in shown.stdout and f"headwater compact {run}" in shown.stderr
    asked = ("query", run, "--text", "the newest row of all, about boats", "--label", label, "--json", "-k", "3")
    answer = headwater(*asked).json
    assert answer["queries"][0]["proponents"][0]["text"] == now[-1]["text"]
    assert any("1 of the" in note and "after the training" in note for note in answer["run"]["warnings"])
    told = headwater("compact", run, "--json").json
    assert told["rows"] == len(now) and told["dead_rows_dropped"] == 2 and told["bytes"] < told["bytes_before"]
    again = headwater(*asked).json
    assert [row["text"] for row in again["queries"][0]["proponents"]] == [
        row["text"] for row in answer["queries"][0]["proponents"]
    ]
    assert headwater("verify", run).code == 0
    assert "nothing to do" in headwater("compact", run).stdout


def test_a_corpus_that_does_not_fit_is_one_line(copied: Callable[[], Path], tmp_path: Path) -> None:
    run = copied()
    before = json.loads((run / "index" / "manifest.json").read_text())
    file = write_rows(tmp_path / "odd.jsonl", [{"text": "something", "label": "no such label"}])
    assert "no such label" in headwater("index", run, "--corpus", file).error
    assert "no such file" in headwater("index", run, "--corpus", tmp_path / "none.jsonl").error.lower()
    assert json.loads((run / "index" / "manifest.json").read_text()) == before
    assert "no such folder" in headwater("compact", tmp_path / "nowhere").error
