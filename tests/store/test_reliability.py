"""What happens to an index when the machine fails it: full and read-only disks, kills, cut files, links, two writers.

Real processes, real disks (in memory, seen by the test alone), and signals.
"""

import json
import os
import random
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.errors import HeadwaterError, StoreError
from headwater.files import canonical_json, digest, write_text
from headwater.gradients import TokenGradients
from headwater.store import Manifest, RowRange, RowStore, Store, StoredCheckpoint, build_store
from headwater.store.grow import sweep
from headwater.store.manifest import NAME
from headwater.store.segment import open_segment
from store import row_plans
from store.conftest import build, gradients_of, plan
from store.isolated import ended, forked, make_read_only, needs_disks, own_disks, run_apart, small_disk

Files = Callable[[Path], dict[str, bytes]]
KILLS = 5


def _written(folder: Path, wanted: Manifest, gradients=gradients_of) -> None:
    others = {"rows.txt": lambda path: write_text(path, "one\ntwo\n")}
    build_store(folder, wanted, gradients, others=others, kept=lambda _: None)


def _check_whole(folder: Path, whole: dict[str, bytes], files: Files) -> None:
    """Whatever has its name is what a build that nothing disturbed writes."""
    there = files(folder)
    assert {name: data == whole[name] for name, data in there.items()} == dict.fromkeys(there, True)


# Full and read-only disks


@needs_disks
def test_a_disk_that_is_full_at_any_moment_is_one_clear_error_and_leaves_whole_files(
    store: Store, tmp_path: Path, files: Files
) -> None:
    whole, disk = files(store.folder), tmp_path / "disk"

    def fill() -> list[str]:
        own_disks()
        small_disk(disk, 1)
        told = []
        for pages in range(2, 200):
            try:
                _written(disk / "index", plan(10, checkpoints=2))
                break
            except HeadwaterError as error:
                told.append(str(error))
            _check_whole(disk / "index", whole, files)
            small_disk(disk, pages, again=True)  # the same disk, a page larger: the build resumes
        assert files(disk / "index") == whole
        Store.open(disk / "index").verify()
        return told

    code, told = run_apart(fill, tmp_path / "told")
    assert code == 0, told
    assert len(told) > 5 and all("\n" not in line and str(disk) in line for line in told)
    assert all("the disk is full. Free some space" in line for line in told)


@needs_disks
def test_an_index_on_a_read_only_disk_is_read_and_cannot_be_written(store: Store, tmp_path: Path) -> None:
    def read() -> str:
        own_disks()
        make_read_only(store.folder)
        opened = Store.open(store.folder)
        opened.verify()
        assert all(len(segment.postings) for segment in opened.segments(opened.manifest.checkpoints[0]))
        with pytest.raises(StoreError, match=r"cannot be written .*--out") as caught:
            _written(store.folder, plan(10, checkpoints=3))
        return str(caught.value)

    code, told = run_apart(read, tmp_path / "told")
    assert code == 0, told
    assert str(store.folder) in told


# Kills and two writers


def _slowly(seconds: float) -> Callable[[StoredCheckpoint, RowRange], Iterator[TokenGradients]]:
    def gradients(checkpoint: StoredCheckpoint, rows: RowRange) -> Iterator[TokenGradients]:
        time.sleep(seconds)
        yield from gradients_of(checkpoint, rows)

    return gradients


def test_builds_killed_at_random_moments_leave_whole_files_and_end_in_the_same_bytes(
    store: Store, tmp_path: Path, files: Files
) -> None:
    whole, folder, drawn = files(store.folder), tmp_path / "killed", random.Random(1)
    kills = 0
    while kills < KILLS:
        child = forked(lambda: _written(folder, plan(10, checkpoints=2), _slowly(0.02)))
        time.sleep(drawn.uniform(0.005, 0.1))
        os.kill(child, signal.SIGKILL)
        kills += ended(child) == -signal.SIGKILL
        _check_whole(folder, whole, lambda place: {n: d for n, d in files(place).items() if not n.endswith(".part")})
        if (folder / NAME).exists():
            shutil.rmtree(folder)
    _written(folder, plan(10, checkpoints=2))
    assert files(folder) == whole


def test_of_writers_that_start_together_one_writes_and_the_others_are_told_so(
    store: Store, tmp_path: Path, files: Files
) -> None:
    folder, outs = tmp_path / "shared", [tmp_path / f"told{number}" for number in range(3)]
    begin = time.monotonic() + 0.2

    def write() -> None:
        time.sleep(max(0.0, begin - time.monotonic()))
        _written(folder, plan(10, checkpoints=2), _slowly(0.1))

    children = [forked(write, out=out) for out in outs]
    assert sorted(map(ended, children)) == [0, 1, 1]
    told = [out.read_text() for out in outs]
    assert sum("is writing to this index" in line for line in told) == 2
    assert files(folder) == files(store.folder)
    Store.open(folder).verify()


# Damage


def _places(path: Path, drawn: random.Random) -> list[int]:
    """A place in the length of the header, in the header, in every array; of other files first, last, and some."""
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        return sorted({0, size - 1, *drawn.sample(range(size), min(20, size))})
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    found = [0, 7, 8, 8 + drawn.randrange(length), 7 + length]
    for name, entry in json.loads(data[8 : 8 + length]).items():
        start, stop = entry["data_offsets"] if name != "__metadata__" else (0, 0)
        found += [8 + length + at for at in {start, (start + stop) // 2, stop - 1} if start <= at < stop]
    return found


@pytest.mark.parametrize("kind", ["float16", "float32", "rows"])
def test_a_flipped_byte_in_any_region_of_any_file_is_found_by_verify(kind: str, tmp_path: Path, files: Files) -> None:
    folder, drawn = tmp_path / "store", random.Random(0)
    opened: Store | RowStore
    if kind == "rows":
        opened = row_plans.build(folder, row_plans.plan(6, checkpoints=1))
    else:
        opened = build(folder, plan(6, dtype=kind))
    whole = files(folder)
    assert set(whole) == {NAME, *opened.manifest.files}
    for name, data in whole.items():
        for at in _places(folder / name, drawn):
            damaged = bytearray(data)
            damaged[at] ^= drawn.randrange(1, 256)
            (folder / name).write_bytes(damaged)
            if name == NAME and _same_json(data, damaged):
                continue  # white space
            with pytest.raises(StoreError) as caught:
                type(opened).open(folder).verify()
            assert str(folder / name) in str(caught.value), (name, at)
        (folder / name).write_bytes(data)
    type(opened).open(folder).verify()


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize("left", [0, 7, 8, 100, 0.5, -1])
def test_files_cut_before_they_are_opened_are_an_error(left: float, store: Store) -> None:
    for name in store.manifest.files:
        path, whole = store.folder / name, (store.folder / name).read_bytes()
        cut = whole[: int(len(whole) * left) if isinstance(left, float) else left]
        if cut == whole:
            continue  # a short file
        path.write_bytes(cut)
        with pytest.raises(StoreError, match="truncated"):
            Store.open(store.folder)
        if path.suffix == ".safetensors":
            with pytest.raises(StoreError, match=r"truncated|damaged"):
                open_segment(path)
        path.write_bytes(whole)


def _read_all(opened: Store | RowStore) -> float:
    """Touch every byte of every segment."""
    total = 0.0
    for checkpoint in opened.manifest.checkpoints:
        if isinstance(opened, Store):
            for segment in opened.segments(checkpoint):
                total += float(segment.postings.gradients(slice(None)).sum()) + float(segment.postings.norms.sum())
        else:
            total += sum(float(opened.read(checkpoint, column.name).sum()) for column in opened.manifest.columns)
    return total


@pytest.mark.parametrize("kind", ["tokens", "rows"])
def test_a_file_cut_while_it_is_mapped_is_an_error_and_no_bus_error(kind: str, tmp_path: Path) -> None:
    opened: Store | RowStore = (
        build(tmp_path / "s", plan(10, checkpoints=2))
        if kind == "tokens"
        else row_plans.build(tmp_path / "s", row_plans.plan())
    )
    whole = _read_all(opened)
    name = sorted(name for name in opened.manifest.files if name.endswith(".safetensors"))[1]

    def read_cut() -> None:
        assert _read_all(opened) == whole
        os.truncate(opened.folder / name, 20)
        _read_all(opened)

    code, told = run_apart(read_cut, tmp_path / "told")
    assert code == 1 and told.startswith("StoreError: ") and f"{name}: 20 bytes" in told and "truncated" in told


def test_a_file_replaced_or_deleted_while_it_is_mapped_stays_what_it_was(store: Store, tmp_path: Path) -> None:
    whole = _read_all(store)
    first, second = sorted((store.folder / "segments").rglob("*.safetensors"))[:2]
    (tmp_path / "other").write_bytes(b"short")
    (tmp_path / "other").replace(first)
    second.unlink()
    assert _read_all(store) == whole
    with pytest.raises(StoreError, match=r"missing|truncated"):
        Store.open(store.folder)


# What leads out


def _rename(folder: Path, old: str, new: str) -> None:
    """Name a file otherwise in the manifest, and sign it again, as a forger would."""
    values: dict[str, Any] = json.loads((folder / NAME).read_text())
    del values["xxh3"]
    values["files"][new] = values["files"].pop(old)
    values["xxh3"] = digest([canonical_json(values)])
    (folder / NAME).write_text(json.dumps(values))


LEADING_OUT = [
    "/etc/passwd", "//etc/passwd", "..", "../rows.txt", "segments/../../rows.txt", "segments/..", "./rows.txt", ".",
    "", "a//b", "a/", "rows.txt\0", "rows.txt\n", "\0/etc/passwd", "C:\\rows.txt", "C:rows.txt", "c:/rows.txt",
    "\\\\host\\share\\rows.txt", "..\\rows.txt", "a\\..\\..\\b", "~/rows.txt", "~root/x", "$HOME/x", "file:///etc/passwd",
    "．．/rows.txt", "․․/rows.txt", "a/\u202e/b", "a b", "-rf", ".lock", "*", "%2e%2e/rows.txt", "a/.." + "/.." * 9,
]  # fmt: skip


@pytest.mark.parametrize("name", LEADING_OUT)
def test_no_name_in_a_manifest_leads_out_of_the_index(name: str, store: Store) -> None:
    _rename(store.folder, "rows.txt", name)
    with pytest.raises(StoreError, match="leads out of the index"):
        Store.open(store.folder)


@pytest.mark.parametrize("linked", ["file", "folder", "loop"])
def test_a_link_that_leads_out_of_the_index_is_refused(linked: str, store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    inside = store.folder / ("rows.txt" if linked == "file" else "segments")
    if linked == "loop":
        shutil.rmtree(inside)
        inside.symlink_to(inside)
    else:
        inside.rename(outside)
        inside.symlink_to(outside)
    with pytest.raises(StoreError, match=r"a link that leads out of the index|is missing"):
        Store.open(store.folder)


@pytest.mark.parametrize("linked", ["segments", "segments/checkpoint-1-00000001", "grown-000009", "compacted"])
def test_a_writer_deletes_nothing_beyond_a_link_that_leads_out(linked: str, store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    if (store.folder / linked).exists():
        shutil.copytree(store.folder / linked, outside)
        shutil.rmtree(store.folder / linked)
    outside.mkdir(exist_ok=True)
    (outside / "model.safetensors").write_text("mine")
    (store.folder / linked).symlink_to(outside)
    before = sorted(outside.rglob("*"))
    for checkpoints in (False, True):
        sweep(store.folder, store.manifest, checkpoints=checkpoints)
    assert sorted(outside.rglob("*")) == before


def test_links_inside_an_index_and_to_the_whole_of_it_are_followed(store: Store, tmp_path: Path) -> None:
    (store.folder / "rows.txt").rename(store.folder / "kept.txt")
    (store.folder / "rows.txt").symlink_to("kept.txt")
    (tmp_path / "link").symlink_to(store.folder)
    for folder in (store.folder, tmp_path / "link"):
        Store.open(folder).verify()


def test_a_checkpoint_s_name_leads_nowhere_else(tmp_path: Path) -> None:
    names = ["../../x", "/etc/x", "..", "a\0b", "C:\\x", "．．/x", ""]
    wanted = plan(3)
    checkpoints = tuple(StoredCheckpoint(name, f"{n:08x}", 1.0) for n, name in enumerate(names))
    folder = tmp_path / "deep" / "store"
    made = build(folder, Manifest(**{**wanted.__dict__, "checkpoints": checkpoints}))
    made.verify()
    assert [path.name for path in tmp_path.iterdir()] == ["deep"] and [p.name for p in folder.parent.iterdir()] == [
        "store"
    ]
    assert np.isfinite(_read_all(made))
