"""Segment files: what the safetensors library reads, the same in every process, and never trusted when damaged."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from headwater.errors import HeadwaterError, StoreError
from headwater.store import Store
from headwater.store.arrays import open_arrays, write_arrays
from headwater.store.postings import encode_block, in_order
from headwater.store.segment import open_segment, read_facts, write_segment
from store.conftest import SPECIAL, random_gradients

FACTS = {"start": 0, "stop": 8, "model": "m", "words": "é✓"}


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segment") / "a.safetensors"
    write_segment(
        path, [encode_block(random_gradients(1, 8), dtype="float16", special=SPECIAL)], first_row=0, facts=FACTS
    )
    return path


def test_the_safetensors_library_reads_what_was_written(segment: Path) -> None:
    small, payload, order = in_order([encode_block(random_gradients(1, 8), dtype="float16", special=SPECIAL)])
    with safe_open(segment, framework="pt") as file:
        assert set(file.keys()) == {*small, "payload"}
        for name, array in small.items():
            np.testing.assert_array_equal(file.get_tensor(name).numpy(), array)
        assert torch.equal(file.get_tensor("payload"), payload[torch.from_numpy(order)])
        (key,) = file.metadata()
        assert json.loads(file.metadata()[key]) == {"format": 1, **FACTS} == read_facts(segment)
    (length,) = struct.unpack("<Q", segment.read_bytes()[:8])
    assert length % 8 == 0  # so that every array lies on its own boundary


def test_a_segment_without_any_posting_can_be_written_and_opened(tmp_path: Path) -> None:
    gradients = random_gradients(1, 4, scale=0.0)
    for dtype in ("float16", "float32"):
        path = tmp_path / dtype
        write_segment(path, [encode_block(gradients, dtype=dtype)], first_row=0, facts=FACTS)
        assert len(open_segment(path)) == 0


_WRITE = """
import sys
from pathlib import Path
from store.conftest import build, plan
build(Path(sys.argv[1]), plan(7, checkpoints=2, dtype="float16"))
"""


def test_four_processes_write_the_same_bytes(tmp_path: Path, files) -> None:
    tests = Path(__file__).parents[1]
    running = []
    for seed in range(4):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": f"{tests}:{':'.join(sys.path)}"}
        command = [sys.executable, "-c", _WRITE, str(tmp_path / str(seed))]
        running.append(subprocess.Popen(command, env=environment))
    assert [process.wait() for process in running] == [0] * 4
    first, *others = [files(tmp_path / str(seed)) for seed in range(4)]
    assert len(first) == 2 * 2 + 2 and all(other == first for other in others)


@pytest.mark.parametrize("left", [0, 4, 8, 60, -1])
def test_a_truncated_segment_is_an_error_and_no_bus_error(segment: Path, tmp_path: Path, left: int) -> None:
    whole = segment.read_bytes()
    (tmp_path / "cut").write_bytes(whole[:left])
    with pytest.raises(StoreError, match=r"truncated|damaged"):
        open_segment(tmp_path / "cut")
    (tmp_path / "long").write_bytes(whole + b"\0" * 9)
    with pytest.raises(StoreError, match="its header promises"):
        open_segment(tmp_path / "long")


def test_a_missing_segment_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing"):
        open_segment(tmp_path / "none")


def _with_header(segment: Path, out: Path, header: bytes) -> Path:
    whole = segment.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    out.write_bytes(struct.pack("<Q", len(header)) + header + whole[8 + length :])
    return out


def _header(segment: Path) -> dict:
    whole = segment.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    return json.loads(whole[8 : 8 + length])


def _opens_or_says_why(path: Path) -> None:
    """Only our own errors may come out, and what does open can be read to its last posting."""
    try:
        found = open_segment(path)
    except HeadwaterError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert torch.isfinite(found.gradients(slice(None))).all() and len(found.token_of()) == len(found)
    assert len(found) == 0 or int(found.rows.max()) < 8


_FUZZ = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@_FUZZ
@given(st.data())
def test_flipped_bytes_in_the_header_never_come_out_as_another_error(segment: Path, data: st.DataObject) -> None:
    whole = bytearray(segment.read_bytes())
    (length,) = struct.unpack("<Q", whole[:8])
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, 7 + length))] = data.draw(st.integers(0, 255))
    out = segment.parent / "flipped"
    out.write_bytes(whole)
    _opens_or_says_why(out)


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**70), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)
_TYPES = st.sampled_from(
    ("BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "F8_E4M3", "I32", "U32", "F32", "I64", "U64", "F64", "C64", "X")
)


@_FUZZ
@given(st.data())
def test_a_header_that_lies_never_comes_out_as_another_error(segment: Path, data: st.DataObject) -> None:
    header = _header(segment)
    name = data.draw(st.sampled_from(sorted(header)))
    change = data.draw(st.sampled_from(["drop", "replace", "dtype", "shape", "swap"]))
    if change == "drop":
        del header[name]
    elif change == "replace" or name == "__metadata__":
        header[name] = data.draw(_VALUES)
    elif change == "dtype":
        header[name]["dtype"] = data.draw(_TYPES)
    elif change == "shape":
        header[name]["shape"] = data.draw(st.lists(st.integers(-1, 200), max_size=3))
    else:
        other = data.draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))
        header[name], header[other] = header[other], header[name]
    out = _with_header(segment, segment.parent / "lying", json.dumps(header).encode())
    _opens_or_says_why(out)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "7", "null", '"a"', "[" * 100_000, '{"a": {"data_offsets": [0, "x"]}}']
)
def test_a_header_that_is_no_header_is_an_error(segment: Path, text: str) -> None:
    out = _with_header(segment, segment.parent / "none", text.encode())
    with pytest.raises(StoreError):
        open_segment(out)


def test_metadata_nested_beyond_reason_is_an_error(segment: Path) -> None:
    header = _header(segment)
    (key,) = header["__metadata__"]
    header["__metadata__"][key] = "[" * 100_000
    with pytest.raises(StoreError, match="not a Headwater segment"):
        open_segment(_with_header(segment, segment.parent / "deep", json.dumps(header).encode()))


def test_a_file_of_someone_else_is_no_segment(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StoreError, match="not a Headwater segment"):
        open_segment(tmp_path / "model.safetensors")


def test_rows_beyond_the_segment_s_range_are_an_error(segment: Path) -> None:
    header = _header(segment)
    whole = bytearray(segment.read_bytes())
    begin = 8 + struct.unpack("<Q", whole[:8])[0] + header["rows"]["data_offsets"][0]
    whole[begin : begin + 4] = struct.pack("<I", 8)
    (segment.parent / "beyond").write_bytes(whole)
    with pytest.raises(StoreError, match="do not fit"):
        open_segment(segment.parent / "beyond")


def test_a_newer_segment_asks_for_an_upgrade(segment: Path) -> None:
    header = _header(segment)
    (key,) = header["__metadata__"]
    header["__metadata__"][key] = json.dumps({"format": 2, **FACTS})
    with pytest.raises(StoreError, match=r"segment format 2.*Upgrade Headwater"):
        open_segment(_with_header(segment, segment.parent / "newer", json.dumps(header).encode()))


def test_segments_are_opened_once_and_only_when_asked_for(store: Store) -> None:
    checkpoint, rows = store.manifest.checkpoints[0], store.manifest.ranges[1]
    for other in (store.folder / "segments").rglob("*.safetensors"):
        if str(other.relative_to(store.folder)) != store.manifest.segment_path(checkpoint, rows):
            other.unlink()
    assert store.segment(checkpoint, rows).postings is store.segment(checkpoint, rows).postings


def test_an_open_file_counts_as_no_memory_that_could_be_written(tmp_path: Path) -> None:
    """What may be written is what RLIMIT_DATA and a strict kernel count: an index may be larger than that."""
    shapes = {"numbers": (np.dtype(np.float32), (1 << 23,))}
    numbers = np.arange(1 << 23, dtype=np.float32)
    write_arrays(tmp_path / "a", shapes, lambda _: [numbers], facts={})

    def writable() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmData"))) << 10

    open_arrays(tmp_path / "a", lambda arrays: arrays)  # what the libraries need, once
    before = writable()
    held = open_arrays(tmp_path / "a", lambda arrays: arrays)[1]
    assert writable() - before < numbers.nbytes // 4
    assert np.array_equal(held["numbers"].numpy(), numbers)
