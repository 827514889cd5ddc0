"""What an index refuses: to be of something else than it says, damaged, or asked what makes no sense."""

import random
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import make_run
from headwater.errors import DataError, HeadwaterError, RunError, StoreError, UsageError

# What is of something else: each its own error, on opening and on building again


def _other(name: str, run: hw.Run, tokenizer: PreTrainedTokenizerFast, folder: Path) -> hw.Run:
    """A run like `run` but for one thing."""
    models = [checkpoint.load() for checkpoint in run.checkpoints]
    rows = builders.rows(24)
    task = hw.Classification(max_length=32)
    if name == "model":
        models[1] = builders.tiny_model("bert", tokenizer, seed=9)
    if name == "tokenizer":
        tokenizer = builders.wordpiece_tokenizer()
        tokenizer.add_tokens(["neighbour"])
        for model in models:
            model.resize_token_embeddings(len(tokenizer))
    if name == "corpus":
        rows[7]["label"] = "bad" if rows[7]["label"] == "good" else "good"
    if name == "shorter corpus":
        rows = rows[:-1]
    if name == "task":
        task = hw.Classification(max_length=31)
    return make_run(folder, models, tokenizer, rows, task=task)


ON_OPENING = {
    "model": "another model: no checkpoint of .* has the weights that checkpoint-2 had",
    "tokenizer": "another tokenizer",
    "corpus": "another corpus: rows 1 to 24 differ",
    "shorter corpus": "another corpus",
    "task": "another task or max_length",
}
ON_BUILDING = ON_OPENING | {
    "model": "another model: the checkpoint's weights differ",
    "corpus": "another corpus: its rows have changed",
    "tokenizer": "another (tokenizer|model)",  # a larger embedding matrix is another model too
}


@pytest.mark.parametrize("name", ON_OPENING)
def test_an_index_of_something_else_is_refused_by_name(
    name: str, run: hw.Run, index: hw.Index, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    other = _other(name, run, tokenizer, tmp_path / "run")
    with pytest.raises(StoreError, match=ON_OPENING[name]) as caught:
        hw.Index.open(index.folder, run=other)
    assert "\n" not in str(caught.value)
    copy = tmp_path / "index"
    shutil.copytree(index.folder, copy)
    (copy / "manifest.json").unlink()  # as a killed build leaves it
    for folder in (index.folder, copy):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
        with pytest.raises(StoreError, match=ON_BUILDING[name]):
            hw.Index.build(other, folder, dtype="float32")
        assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
    hw.Index.open(index.folder).verify()


def test_other_options_and_another_torch_build_are_refused_on_building_again(
    run: hw.Run, index: hw.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match=r"other options \(dtype='float32', not 'float16'\).*--out"):
        hw.Index.build(run)
    with pytest.raises(StoreError, match=r"other options \(max_words=None, not 3\)"):
        hw.Index.build(run, dtype="float32", max_words=3)
    monkeypatch.setattr("torch.__version__", "9.9.9")
    with pytest.raises(StoreError, match="another torch build or device"):
        hw.Index.build(run, dtype="float32")
    hw.Index.open(index.folder).verify()


def test_the_same_build_again_changes_nothing(run: hw.Run, index: hw.Index) -> None:
    before = {path: path.read_bytes() for path in index.folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert hw.Index.build(run, dtype="float32").bytes == index.bytes
    assert before == {p: p.read_bytes() for p in index.folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_flipped_bit_in_any_file_is_found_by_verify(run: hw.Run, tmp_path: Path) -> None:
    index = hw.Index.build(run, tmp_path / "index")
    index.verify()
    drawn = random.Random(1)
    files = [path for path in index.folder.rglob("*") if path.suffix in (".safetensors", ".parquet")]
    assert len(files) == 3
    for path in files:
        whole = path.read_bytes()
        for at in (0, len(whole) - 1, *drawn.sample(range(len(whole)), 5)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << drawn.randrange(8)]) + whole[at + 1 :])
            with pytest.raises(StoreError, match=path.name):
                index.verify()
        path.write_bytes(whole)
    index.verify()


# What is refused before anything is computed


def test_a_build_that_cannot_mean_anything_is_refused(run: hw.Run, tmp_path: Path) -> None:
    refused: list[tuple[dict[str, Any], type[HeadwaterError], str]] = [
        ({"dtype": "int5"}, HeadwaterError, "float16, float32, int8 or int4"),
        ({"max_words": 0}, HeadwaterError, "1 to 254"),
        ({"max_words": 255}, HeadwaterError, "1 to 254"),
        ({"checkpoints": ["checkpoint-9"]}, UsageError, "no checkpoint 'checkpoint-9'"),
    ]
    for options, kind, message in refused:
        with pytest.raises(kind, match=message):
            hw.Index.build(run, tmp_path / "index", **options)
    assert not (tmp_path / "index").exists()


def test_checkpoints_of_weight_zero_alone_are_refused(fresh_run, tmp_path: Path) -> None:
    run = fresh_run(weights=(1.0, 0.0))
    with pytest.raises(RunError, match="every score would be 0"):
        hw.Index.build(run, tmp_path / "index", checkpoints="last")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("queries", "labels", "error", "message"),
    [
        ([], None, UsageError, "no queries"),
        (["a", "b"], ["good"], UsageError, "2 queries but 1 labels"),
        (["a"], ["fine"], DataError, r"row 1: label 'fine' is not among .*bad, good"),
        (["a", "b"], ["good", None], DataError, "row 2"),
        (["a", "  "], None, DataError, r"row 2, column 'text': the text is empty or blank"),
        ([("a", "b")], None, UsageError, r"queries are texts: \[text, ...\]"),
        (["a", 7], None, UsageError, r"queries are texts"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    queries: Any, labels: Any, error: type[HeadwaterError], message: str, index: hw.Index
) -> None:
    for ask in (index.query, index.scores):
        with pytest.raises(error, match=message):
            ask(queries, labels)


def test_k_is_at_least_one(index: hw.Index) -> None:
    with pytest.raises(UsageError, match="k must be at least 1"):
        index.query(["the heron"], ["good"], k=0)


def test_an_unknown_label_far_down_is_named_by_its_row_and_leaves_no_file(index: hw.Index, tmp_path: Path) -> None:
    labels = ["good"] * 200
    labels[150] = "fine"
    with pytest.raises(DataError, match=r"row 151: label 'fine'"):
        index.scores(["the heron"] * 200, labels, out=tmp_path / "s.npy")
    assert not list(tmp_path.iterdir())


def test_a_model_that_diverged_is_refused_and_leaves_no_manifest(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = builders.tiny_model("bert", tokenizer)
    with torch.no_grad():
        model.classifier.weight.fill_(torch.nan)
    run = make_run(tmp_path / "run", [model], tokenizer, builders.rows(6), weights=(1.0,))
    with pytest.raises(HeadwaterError, match="not finite"):
        hw.Index.build(run, tmp_path / "index")
    assert not (tmp_path / "index" / "manifest.json").exists() and not list((tmp_path / "index").rglob("*.part"))


@contextmanager
def little_room() -> Iterator[None]:
    """No file can grow beyond 9 kB, as on a disk that is almost full. It ends before pytest writes to its log."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_finds_no_room_is_an_error_and_leaves_nothing(run: hw.Run, index: hw.Index, tmp_path: Path) -> None:
    with little_room(), pytest.raises(HeadwaterError, match=r"s\.npy"):
        index.scores(["the heron"] * 400, ["good"] * 400, out=tmp_path / "s.npy")
    assert not list(tmp_path.iterdir())
    with little_room(), pytest.raises(HeadwaterError, match=r"\.safetensors"):
        hw.Index.build(run, tmp_path / "index", dtype="float32")
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".part", ".safetensors")]
    with pytest.raises(StoreError, match="unfinished"):
        hw.Index.open(tmp_path / "index")
