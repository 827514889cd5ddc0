"""Building stores of arrays a row: what is whole is kept, what is missing is written, what is wrong is refused."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headwater.errors import StoreError
from headwater.store import RowRange, RowStore, StoredCheckpoint, build_rows
from headwater.store.lock import writer_lock
from headwater.store.manifest import NAME
from store.row_plans import COLUMNS, Batches, Files, build, never, plan, rows_of, truth


@pytest.fixture
def store(tmp_path: Path) -> RowStore:
    """Ten rows in three ranges at two checkpoints."""
    return build(tmp_path / "store", plan())


def _poisoned(value: float, column: str) -> Callable[[StoredCheckpoint, RowRange], Batches]:
    def values(checkpoint: StoredCheckpoint, rows: RowRange) -> Batches:
        for numbers, arrays in rows_of(checkpoint, rows):
            arrays[column].reshape(len(numbers), -1)[numbers == 6, -1] = value
            yield numbers, arrays

    return values


@pytest.mark.parametrize("column", ["gradients", "errors", "losses"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused_by_row(value: float, column: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"c-0, row 7: its {column} are not finite"):
        build(tmp_path, plan(), _poisoned(value, column))
    assert not (tmp_path / NAME).exists() and not list(tmp_path.rglob("*.part"))


def test_float16_refuses_what_would_be_read_as_infinite(tmp_path: Path) -> None:
    below, above = 2.0**128 * (1 - 2.0**-11), 2.0**128 * (1 - 2.0**-12)
    assert (
        build(tmp_path / "a", plan(), _poisoned(below, "gradients"))
        .read(plan().checkpoints[0], "gradients")
        .isfinite()
        .all()
    )
    with pytest.raises(StoreError, match="row 7: its gradients are not finite"):
        build(tmp_path / "b", plan(), _poisoned(above, "gradients"))


def _missing(numbers: torch.Tensor, arrays: dict[str, torch.Tensor]) -> Batches:
    kept = numbers != 5
    yield numbers[kept], {name: array[kept] for name, array in arrays.items()}


def _double(numbers: torch.Tensor, arrays: dict[str, torch.Tensor]) -> Batches:
    yield numbers, arrays
    twice = numbers == 5
    yield numbers[twice], {name: array[twice] for name, array in arrays.items()}


def _double_at_once(numbers: torch.Tensor, arrays: dict[str, torch.Tensor]) -> Batches:
    picked = torch.cat([torch.arange(len(numbers)), torch.nonzero(numbers == 5)[:, 0]])
    yield numbers[picked], {name: array[picked] for name, array in arrays.items()}


def _beyond(numbers: torch.Tensor, arrays: dict[str, torch.Tensor]) -> Batches:
    yield torch.where(numbers == 5, 8, numbers), arrays


def _before(numbers: torch.Tensor, arrays: dict[str, torch.Tensor]) -> Batches:
    yield torch.where(numbers == 5, 3, numbers), arrays


def _another_shape(numbers: torch.Tensor, arrays: dict[str, torch.Tensor]) -> Batches:
    yield numbers, {**arrays, "errors": arrays["errors"][:, :1]}


def _another_column(numbers: torch.Tensor, arrays: dict[str, torch.Tensor]) -> Batches:
    yield numbers, {**arrays, "colours": arrays["losses"]}


def _no_column(numbers: torch.Tensor, arrays: dict[str, torch.Tensor]) -> Batches:
    yield numbers, {"losses": arrays["losses"]}


BUGS = {
    _missing: "row 6 was given 0 times, not once", _double: "row 6 was given 2 times, not once",
    _double_at_once: "row 6 was given 2 times, not once", _beyond: "row 9 is not of the range",
    _before: "row 4 is not of the range", _another_shape: "arrays of .* were given, not of",
    _another_column: "arrays of .* were given, not of", _no_column: "arrays of .* were given, not of",
}  # fmt: skip


@pytest.mark.parametrize("change", BUGS)
def test_each_row_must_be_given_exactly_once_and_as_planned(change, tmp_path: Path) -> None:
    def values(checkpoint: StoredCheckpoint, rows: RowRange) -> Batches:
        for numbers, arrays in rows_of(checkpoint, rows):
            if rows.start == 4:
                yield from change(numbers, arrays)
            else:
                yield numbers, arrays

    with pytest.raises(StoreError, match=BUGS[change]):
        build(tmp_path, plan(), values)
    assert not (tmp_path / NAME).exists()
    assert {path.name for path in tmp_path.rglob("*.safetensors")} == {"000000000-000000004.safetensors"}


def test_a_finished_store_is_kept_as_it_is(store: RowStore, files: Files) -> None:
    before, kept = files(store.folder), list[int]()
    build_rows(store.folder, plan(), never, kept=kept.append)
    assert files(store.folder) == before and kept == [4, 4, 4, 4, 2, 2]


def test_what_is_missing_is_built_again_to_the_same_bytes(store: RowStore, files: Files) -> None:
    before = files(store.folder)
    for name in before:
        (store.folder / name).unlink()
        build(store.folder, plan()).verify()
        assert files(store.folder) == before


def test_batches_of_another_order_and_size_give_the_same_bytes(store: RowStore, files: Files, tmp_path: Path) -> None:
    def one_by_one(checkpoint: StoredCheckpoint, rows: RowRange) -> Batches:
        for number in range(rows.start, rows.stop):
            yield torch.tensor([number]), {c.name: truth(c, checkpoint, 100)[[number]] for c in COLUMNS}

    assert files(build(tmp_path / "other", plan(), one_by_one).folder) == files(store.folder)


_KILLED = """
import os, signal, sys
from pathlib import Path
from store.row_plans import build, plan

rename, done = Path.replace, []

def replace(path, target):
    done.append(target)
    if len(done) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)

for last in range(1, 8):
    child = os.fork()
    if child == 0:
        Path.replace, sys.argv[2:] = replace, [str(last)]
        build(Path(sys.argv[1]) / str(last), plan())
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
build(Path(sys.argv[1]) / "whole", plan())
"""


def test_a_build_killed_at_any_file_resumes_to_the_same_bytes(tmp_path: Path, store: RowStore, files: Files) -> None:
    """Six segments and the manifest; the process dies when the file is written and has no name yet."""
    path = f"{Path(__file__).parents[1]}:{':'.join(sys.path)}"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": path}
    ran = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], env=environment, stdout=-1, text=True)
    assert ran.stdout.split() == [str(-signal.SIGKILL)] * 7 and ran.returncode == 0
    whole = files(store.folder)
    assert len(whole) == 7 and files(tmp_path / "whole") == whole
    for last in range(1, 8):
        folder, kept = tmp_path / str(last), list[int]()
        assert not (folder / NAME).exists() and len(list(folder.rglob("*.safetensors"))) == last - 1
        with pytest.raises(StoreError, match=r"no index here|unfinished.* it resumes"):
            RowStore.open(folder)
        build_rows(folder, plan(), rows_of, kept=kept.append)
        assert len(kept) == last - 1 and files(folder) == whole


OTHERS = {
    "tokenizer": ({"tokenizer": "words"}, "another tokenizer"),
    "corpus": ({"ranges": (RowRange(0, 4, "other rows"), *plan().ranges[1:])}, "another corpus"),
    "task": ({"task": {"kind": "classification", "max_length": 7}}, "another task or max_length"),
    "torch": ({"built_with": {"torch": "3", "device": "abacus"}}, "another torch build or device"),
    "kind": ({"kind": "representations"}, r"other options \(kind='layers', not 'representations'\)"),
    "seed": (
        {"spec": {"projector": {"seed": 1, "rank": 4}, "layers": ["a", "b"]}},
        r"other options \(spec\.projector\.seed=0, not 1\)",
    ),
    "new option": (
        {"spec": {"projector": {"seed": 0, "rank": 4}, "layers": ["a", "b"], "scale": "adam"}},
        r"other options \(spec\.scale=None, not 'adam'\)",
    ),
    "layers": (
        {"spec": {"projector": {"seed": 0, "rank": 4}, "layers": ["layer"] * 99}},
        r"other options \(spec\.layers=\['a', 'b'\], not \['layer', .{60,70} \.\.\.\)",
    ),
    "dtype": (
        {"columns": (replace(COLUMNS[0], dtype="float32"), *COLUMNS[1:])},
        r"other options \(columns\.gradients\.dtype='float16', not 'float32'\)",
    ),
    "widths": (
        {"columns": (replace(COLUMNS[0], widths=(2, 7)), *COLUMNS[1:])},
        r"other options \(columns\.gradients\.widths=\[2, 4, 3\], not \[2, 7\]\)",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("finished", [True, False])
def test_segments_of_something_else_are_refused_each_by_name(
    name: str, finished: bool, store: RowStore, files: Files
) -> None:
    change, message = OTHERS[name]
    if not finished:
        (store.folder / NAME).unlink()
    before = files(store.folder)
    with pytest.raises(StoreError, match=message) as caught:
        build(store.folder, plan(**change))
    assert "--out" in str(caught.value) and files(store.folder) == before


def test_a_checkpoint_of_the_same_name_and_other_weights_is_another_model(store: RowStore, files: Files) -> None:
    before = files(store.folder)
    first, second = plan().checkpoints
    with pytest.raises(StoreError, match="another model: the checkpoint's weights differ"):
        build(store.folder, replace(plan(), checkpoints=(first, replace(second, fingerprint="feedbeef"))))
    assert files(store.folder) == before


def test_more_checkpoints_are_more_files_and_other_weights_are_none(store: RowStore) -> None:
    assert len(build(store.folder, plan(checkpoints=3)).manifest.files) == 9
    first, second = plan().checkpoints
    heavier = build(store.folder, replace(plan(), checkpoints=(replace(first, weight=7.0), second)), never)
    assert heavier.manifest.checkpoints[0].weight == 7.0


def test_a_second_writer_is_refused(store: RowStore) -> None:
    with writer_lock(store.folder), pytest.raises(StoreError, match=rf"process {os.getpid()} on .* is writing"):
        build(store.folder, plan())
    build(store.folder, plan(), never)


def test_damage_is_not_blessed_by_building_again(store: RowStore) -> None:
    path = store.folder / sorted(store.manifest.files)[-1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"its bytes have changed since it was written\. Delete it"):
        build(store.folder, plan(), never)
