"""What a user gets wrong: one line that says what, where and what to do; exit code 1 or 2; nothing half-written."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.conftest import TRAIN, everything_in, headwater, headwater_process, write_rows

GOOD = [{"text": f"the baker loves {thing}", "label": "good"} for thing in ("bread", "rain", "mills", "stories")]
BAD = [{"text": f"the baker hates {thing}", "label": "bad"} for thing in ("bread", "rain", "mills", "stories")]
ROWS = GOOD + BAD


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


CORPORA = {
    "no such file": (None, "train.jsonl: no such file"),
    "empty file": ("", "train.jsonl: the file is empty"),
    "blank lines": ("\n\n", "train.jsonl: the file holds nothing but blank lines"),
    "broken line": (lines(*ROWS) + '{"text": "cut off', "train.jsonl, row 9: not valid JSON"),
    "no object": (lines(*ROWS, "words"), "train.jsonl, row 9: not a JSON object"),
    "missing column": (lines({"sentence": "a b", "label": "x"}), "train.jsonl: there is no column 'text'"),
    "null text": (lines(*ROWS, {"text": None, "label": "bad"}), "train.jsonl, row 9, column 'text': there is no text"),
    "blank text": (lines(*ROWS, {"text": "  ", "label": "bad"}), "row 9, column 'text': the text is empty or blank"),
    "null label": (lines(*ROWS, {"text": "a"}), "train.jsonl, row 9, column 'label': there is no label"),
    "number for a text": (lines(*ROWS, {"text": 7, "label": "bad"}), "row 9, column 'text': not text but int"),
    "one label": (lines(*GOOD), "every row is labelled 'good'"),
    "half a character": (
        '{"text": "a \\ud800 b", "label": "bad"}\n',
        "row 1, column 'text': holds half of a surrogate",
    ),
    "not UTF-8": (b'{"text": "caf\xe9", "label": "bad"}\n', "line 1: not UTF-8"),
}


@pytest.mark.parametrize("kind", CORPORA)
def test_a_corpus_that_cannot_be_trained_on(kind: str, tmp_path: Path) -> None:
    content, said = CORPORA[kind]
    data = tmp_path / "train.jsonl"
    if content is not None:
        data.write_bytes(content if isinstance(content, bytes) else content.encode())
    called = headwater("train", "--data", data, *TRAIN, "--out", tmp_path / "run")
    assert said in called.error and called.code == 1
    assert list(everything_in(tmp_path)) == ([] if content is None else ["train.jsonl"])


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "train.jsonl", ROWS)
    train = ("train", "--data", data, "--out", tmp_path / "run")
    for options, code, said in [
        (("--epochs", -1), 2, "epochs must be above 0"),
        (("--model", "no-such-model"), 1, "'no-such-model': no such folder"),
        (("--model", "textcnn", "--labels", "good", "--labels", "bad", "--labels", "good"), 1, "named twice"),
        (("--model", "textcnn", "--labels", "good", "--labels", "fine"), 1, "label 'bad' is not among"),
        (("--eval", tmp_path / "none.csv"), 1, "none.csv: no such file"),
        (("--text-column", "sentence"), 1, "there is no column 'sentence'. It has 'text', 'label'"),
    ]:
        called = headwater(*train, *options)
        assert called.code == code and said in called.error
        assert list(everything_in(tmp_path)) == ["train.jsonl"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    assert "is not empty" in headwater(*train).error
    assert headwater("train", "--data", data).code == headwater(*train, "--epochs", "many").code == 2


QUERIES = {
    "no such file": (None, "asked.jsonl: no such file"),
    "empty file": ("", "the file is empty"),
    "missing column": (lines({"sentence": "a b"}), "asked.jsonl: there is no column 'text'"),
    "null text": (lines({"text": "a"}, {"text": None}), "asked.jsonl, row 2, column 'text': there is no text"),
    "null label": (lines(GOOD[0], {"text": "a"}), "asked.jsonl, row 2, column 'label': there is no label"),
    "unknown label": (lines(*[GOOD[0]] * 140, {"text": "a", "label": "dull"}), "asked.jsonl, row 141: label 'dull'"),
}


@pytest.mark.parametrize("kind", QUERIES)
def test_queries_that_cannot_be_asked(kind: str, made: Path, tmp_path: Path) -> None:
    content, said = QUERIES[kind]
    asked = tmp_path / "asked.jsonl"
    if content is not None:
        asked.write_text(content)
    before = everything_in(tmp_path)
    called = headwater("query", made / "run", "--queries", asked, "--json")
    assert said in called.error and called.code == 1
    called = headwater("scores", made / "run", "--queries", asked, "--out", tmp_path / "s.npy")
    assert said in called.error and everything_in(tmp_path) == before


USAGE = {
    "nothing asked": ((), "either --text"),
    "asked twice": (("--text", "a", "--queries", "b.csv"), "either --text"),
    "label of a file": (("--queries", "b.csv", "--label", "good"), "--label and --text-pair go with --text"),
    "label and predicted": (("--text", "a", "--label", "good", "--predicted"), "contradict"),
    "second text": (("--text", "a", "--text-pair", "b"), "single texts: leave --text-pair out"),
    "unknown method": (("--text", "a", "--method", "tracin-wi"), "Did you mean 'tracin-we'"),
    "unknown checkpoint": (("--text", "a", "--checkpoints", "checkpoint-9"), "It has: checkpoint-2, checkpoint-4"),
    "too many words": (("--text", "a", "--max-words", 999), "max_words must be 1 to 254"),
    "cosine": (("--text", "a", "--synonyms", "--synonym-threshold", 2), "synonym_threshold is a cosine"),
    "no condition": (("--text", "a", "--where", "label"), "write it as COLUMN=VALUE"),
    "no such column": (("--text", "a", "--where", "size=3"), "no column 'size' to filter by"),
    "data of a recorded run": (
        ("--text", "a", "--data", "b.csv"),
        "keeps its own corpus",
    ),
}


@pytest.mark.parametrize("kind", USAGE)
def test_a_question_that_contradicts_itself(kind: str, made: Path) -> None:
    options, said = USAGE[kind]
    called = headwater("query", made / "run", *options)
    assert called.code == 2 and said in called.error


def test_options_that_do_not_exist_are_bad_usage(made: Path) -> None:
    for options in (("--colour", "red"), ("--normalize", "test"), ("-k", 0), ("-k", "ten")):
        called = headwater("query", made / "run", "--text", "a", *options)
        assert called.code == 2 and called.stdout == "" and "Traceback" not in called.stderr
    for options in (("--dtype", "float8"), ("--max-words", 0), ("--checkpoints", "checkpoint-9")):
        called = headwater("index", made / "run", *options)
        assert called.code == 2 and called.stdout == ""


def test_an_unknown_label_or_a_blank_text(made: Path) -> None:
    called = headwater("query", made / "run", "--text", "a", "--label", "dull")
    assert called.code == 1 and "label 'dull' is not among the model's labels (bad, good)" in called.error
    called = headwater("query", made / "run", "--text", " ", "--json")
    assert called.code == 1 and "column '--text': the text is empty or blank" in called.error


def test_a_text_that_shares_only_special_tokens(made: Path) -> None:
    asked = ("query", made / "run", "--text", "7777 9999", "--json")
    (query,) = headwater(*asked).json["queries"]
    assert query["proponents"] and "shares only special tokens" in query["notes"][0]
    (query,) = headwater(*asked, "--no-special-tokens").json["queries"]
    assert query["proponents"] == query["opponents"] == [] and "No training row shares a word" in query["notes"][0]


def test_texts_that_are_cut_are_said_to_be(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "train.jsonl", [*ROWS, {"text": "bread " * 50, "label": "good"}])
    assert headwater("train", "--data", data, *TRAIN, "--out", tmp_path / "run").code == 0
    called = headwater("index", tmp_path / "run", "--json")
    assert called.json["rows"] == 9
    assert "Note: 1 row is longer than 16 tokens" in called.stderr.replace("1 rows are", "1 row is")


def test_an_error_of_a_real_process_has_no_traceback(tmp_path: Path) -> None:
    called = headwater_process("query", tmp_path / "nothing", "--text", "a", "--json")
    assert called.code == 1 and called.error.endswith("no such folder.") and len(called.stderr.splitlines()) == 1


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Make a file system of so many kilobytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kilobytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no right to mount a small file system here")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


def test_a_full_disk_leaves_nothing_half_written(made: Path, tiny_disk: Callable[[int], Path]) -> None:
    disk = tiny_disk(64)
    called = headwater("index", made / "run", "--out", disk / "index")
    assert called.code == 1 and "the disk is full" in called.error
    called = headwater("estimate", made / "run", "--out", disk / "index", "--json")
    assert called.json["fits"] is False and "--max-words" in called.json["problem"]
    called = headwater("scores", made / "run", "--queries", made / "test.jsonl", "--out", disk / "s.npy")
    assert called.code == 0
    (disk / "s.npy").unlink()
    (disk / "filling").write_bytes(b"x" * (shutil.disk_usage(disk).free - 4096))
    called = headwater("scores", made / "run", "--queries", made / "test.jsonl", "--out", disk / "s.npy")
    assert "are free there" in called.error
    assert not any(name.endswith(".part") for name in everything_in(disk)) and not (disk / "s.npy").exists()
    data = made / "train.jsonl"
    called = headwater("train", "--data", data, *TRAIN, "--out", disk / "run")
    assert called.code == 1 and "disk is full" in called.error
