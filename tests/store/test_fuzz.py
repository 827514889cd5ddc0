"""Bytes that nobody wrote on purpose: manifests, tables of examples, and where the run lies. Only our errors come out.

(What is signed and well-formed but wrong: test_manifest.py. Headers of segments: test_segment.py, test_rows.py.)
"""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import builders
import headwater as hw
from headwater.attribution.build import SOURCE, find_run
from headwater.errors import HeadwaterError, StoreError
from headwater.store import Store
from headwater.store.manifest import NAME
from store.conftest import build, plan

_FUZZ = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
_PIECES = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([b"9" * 5000, b"-1e999", b"NaN", b"[" * 3000, b'"\\ud800"', b"\x00", b"\xff\xfe", b"null", b"{}"]),
)


def _mangled(data: st.DataObject, whole: bytes) -> bytes:
    """Cut, put in or overwrite at some places."""
    made = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(made)))
        made[at : at + data.draw(st.sampled_from([0, 1, 4, 40, len(made)]))] = data.draw(_PIECES)
    return bytes(made)


@_FUZZ
@given(st.data())
def test_whatever_the_bytes_of_a_manifest_only_our_errors_come_out(tmp_path_factory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "mangled manifest"
    if not folder.exists():
        build(folder, plan(6, checkpoints=2))
        (folder / "whole").write_bytes((folder / NAME).read_bytes())
    (folder / NAME).write_bytes(_mangled(data, (folder / "whole").read_bytes()))
    with contextlib.suppress(HeadwaterError):
        Store.open(folder).verify()


@pytest.mark.parametrize("number", ["9" * 5000, "1e999", "-0", "1.5", "18446744073709551616"])
def test_a_number_beyond_reason_in_a_manifest_is_damage(number: str, tmp_path: Path) -> None:
    build(tmp_path / "s", plan(3))
    (tmp_path / "s" / NAME).write_text(f'{{"format": {number}}}')
    with pytest.raises(StoreError, match=r"damaged manifest|index format"):
        Store.open(tmp_path / "s")


@_FUZZ
@given(st.data())
def test_whatever_the_bytes_of_a_table_of_examples_only_our_errors_come_out(
    tmp_path_factory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "mangled.parquet"
    whole = path.with_name("whole.parquet")
    if not whole.exists():
        hw.Corpus.read(builders.rows(20), name="rows").save(whole)
    path.write_bytes(_mangled(data, whole.read_bytes()))
    with contextlib.suppress(HeadwaterError):
        corpus = hw.Corpus.read(path)
        assert len(corpus.rows(0, len(corpus))) == len(corpus)


SOURCES = [
    "", "[]", "7", "null", "{", '{"run": null}', '{"run": 7}', '{"run": {}}', '{"run": "\\u0000"}', '{"ran": ".."}',
    '{"run": "' + "x" * 5000 + '"}', '{"run": ' + "9" * 5000 + "}", "[" * 100_000, '{"run": "\\ud800"}', "\xff",
]  # fmt: skip


@pytest.mark.parametrize("text", SOURCES)
def test_a_note_of_where_the_run_lies_that_is_none_is_damage(text: str, tmp_path: Path) -> None:
    (tmp_path / SOURCE).write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError, match=r"damaged|has moved") as caught:
        find_run(tmp_path)
    assert str(tmp_path) in str(caught.value) and "Index.open(path, run=" in str(caught.value)


def test_a_flipped_bit_in_the_note_of_where_the_run_lies_is_found_on_opening(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "run").mkdir()
    path = tmp_path / "index" / SOURCE
    whole = b'{\n "run": "../run"\n}\n'
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
            try:
                found = find_run(path.parent)
            except StoreError:
                continue
            assert found != tmp_path / "run"  # another place, which Index.open compares with the index
