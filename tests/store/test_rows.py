"""Arrays of a fixed shape a row: what goes in comes out, or there is an error that says what is damaged."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from headwater.errors import HeadwaterError, StoreError
from headwater.store import Column, RowRange, RowStore, StoredCheckpoint
from headwater.store.manifest import NAME
from store.row_plans import COLUMNS, Batches, build, never, plan, truth


@pytest.fixture
def store(tmp_path: Path) -> RowStore:
    """Ten rows in three ranges at two checkpoints."""
    return build(tmp_path / "store", plan())


def test_all_rows_come_back_in_order(store: RowStore) -> None:
    for checkpoint in store.manifest.checkpoints:
        for column in COLUMNS:
            found, expected = store.read(checkpoint, column.name), truth(column, checkpoint, 100)[:10]
            assert found.shape == expected.shape and found.dtype == torch.float32
            if column.dtype == "float32":
                assert torch.equal(found, expected)
                continue
            for part, whole in zip(found.split(column.widths, 1), expected.split(column.widths, 1), strict=True):
                largest = whole.abs().amax(dim=1, keepdim=True)  # of each group: small layers keep their digits
                assert ((part - whole).abs() <= largest * 2.0**-11).all() and (part[largest[:, 0] == 0] == 0).all()


def test_rows_come_back_in_the_order_asked_also_twice(store: RowStore) -> None:
    checkpoint = store.manifest.checkpoints[1]
    for rows in ([9, 0, 3, 4, 0, 8, 7], [5], []):
        asked = np.array(rows, dtype=np.int64)
        for column in COLUMNS:
            assert torch.equal(
                store.read(checkpoint, column.name, asked), store.read(checkpoint, column.name)[torch.from_numpy(asked)]
            )


def test_a_row_that_is_not_there_and_an_unknown_column_are_refused(store: RowStore) -> None:
    checkpoint = store.manifest.checkpoints[0]
    for row in (-1, 10):
        with pytest.raises(StoreError, match=rf"no row {row + 1}: the index has 10 rows"):
            store.read(checkpoint, "losses", np.array([0, row]))
    with pytest.raises(KeyError):
        store.read(checkpoint, "colours")
    with pytest.raises(ValueError, match="picked of one axis"):
        next(store.blocks(checkpoint, "errors", slice(0, 1)))


_NORMAL = 2.0**-126  # of float32: exponents go no further down
_EXTREMES = [0.0, -0.0, 2.0**-149, -(2.0**-126), 65504.0, 65520.0, 1 / 3, 3.4e38]
_PROPERTY = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

PICKS = [None, slice(None), slice(1, 7), slice(0, 9, 2), slice(7, 2, -2), slice(4, 4), [8, 0, 1, -9], []]


@pytest.mark.parametrize("at", PICKS, ids=str)
@pytest.mark.parametrize("block", [1, 100, 1 << 22])
def test_blocks_are_the_rows_in_order_whatever_their_size(store: RowStore, at, block: int, monkeypatch) -> None:
    monkeypatch.setattr("headwater.store.rows._BLOCK", block)
    at = np.array(at, dtype=np.int64) if isinstance(at, list) else at
    columns = COLUMNS if at is None else COLUMNS[:1]
    for checkpoint in store.manifest.checkpoints:
        for column in columns:
            whole = store.read(checkpoint, column.name)
            whole = whole if at is None else torch.from_numpy(whole.numpy()[:, at].copy())
            starts, blocks = zip(*store.blocks(checkpoint, column.name, at), strict=True)
            assert starts == tuple(np.cumsum([0, *map(len, blocks)])[:-1])
            assert torch.equal(torch.cat(blocks), whole)


@_PROPERTY
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.booleans(), st.integers(0, 2**32))
def test_numbers_are_scaled_by_their_own_group_however_they_are_picked(
    tmp_path_factory, lengths: list[int], wide: bool, seed: int
) -> None:
    """Narrow groups, wide ones, several of one width: each has another way through the decoder."""
    drawn = np.random.default_rng(seed)
    widths = tuple(length * (200 if wide else 1) for length in np.repeat(lengths, drawn.integers(1, 4, len(lengths))))
    scales = 10.0 ** drawn.uniform(-30, 30, (3, len(widths)))
    values = (np.repeat(scales, widths, axis=1) * drawn.uniform(1, 2, (3, sum(widths)))).astype(np.float32)
    widths = tuple(map(int, widths))
    column, folder = Column("a", (sum(widths),), "float16", widths), tmp_path_factory.mktemp("any")

    def given_rows(checkpoint: StoredCheckpoint, rows: RowRange) -> Batches:
        yield torch.arange(3), {"a": torch.from_numpy(values)}

    store = build(folder, plan(3, checkpoints=1, columns=(column,)), given_rows)
    start, stop = sorted(drawn.integers(0, sum(widths) + 1, 2).tolist())
    for at in (None, slice(start, stop), slice(start, stop, 3), drawn.integers(0, sum(widths), 50)):
        ((_, block),) = store.blocks(store.manifest.checkpoints[0], "a", at)
        np.testing.assert_allclose(block.numpy(), values if at is None else values[:, at], rtol=2.0**-11)
    shutil.rmtree(folder)


@pytest.mark.parametrize("column", ["gradients", "losses"])
def test_writing_to_a_block_changes_nothing_that_is_read_later(store: RowStore, column: str) -> None:
    checkpoint = store.manifest.checkpoints[0]
    before = store.read(checkpoint, column)
    for _, block in store.blocks(checkpoint, column):
        block.fill_(7)
    assert torch.equal(store.read(checkpoint, column), before)


def test_some_rows_are_read_without_opening_the_files_of_others(store: RowStore) -> None:
    checkpoint, wanted = store.manifest.checkpoints[0], store.manifest.ranges[1]
    for path in (store.folder / "segments").rglob("*.safetensors"):
        if str(path.relative_to(store.folder)) != store.manifest.segment_path(checkpoint, wanted):
            path.unlink()
    assert store.read(checkpoint, "losses", np.array([5, 4, 7])).shape == (3,)
    with pytest.raises(StoreError, match="missing"):
        store.read(checkpoint, "losses", np.array([8]))


def test_the_safetensors_library_reads_what_was_written(store: RowStore) -> None:
    checkpoint, rows = store.manifest.checkpoints[0], store.manifest.ranges[2]
    found = load_file(store.folder / store.manifest.segment_path(checkpoint, rows))
    assert {name: (array.dtype, tuple(array.shape)) for name, array in found.items()} == {
        "gradients": (torch.float16, (2, 9)), "gradients.exponents": (torch.int8, (2, 3)),
        "errors": (torch.float32, (2, 2, 3)), "losses": (torch.float32, (2,)),
    }  # fmt: skip
    exponents = found["gradients.exponents"].double().repeat_interleave(torch.tensor(COLUMNS[0].widths), dim=1)
    decoded = found["gradients"].double() * 2.0**exponents
    assert torch.equal(decoded.float(), store.read(checkpoint, "gradients", np.array([8, 9])))


@_PROPERTY
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.integers(1, 7),
    st.integers(3, 7),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
def test_whatever_is_written_comes_back_to_half_precision_of_its_group(
    tmp_path_factory, widths: list[int], count: int, size: int, batch: int, seed: int
) -> None:
    length, drawn = sum(widths), np.random.default_rng(seed)
    numbers = drawn.choice([-1, 1], (count, length)) * 10.0 ** drawn.uniform(-44, 38.5, (count, length))
    extreme = drawn.random((count, length)) < 0.2
    numbers[extreme] = drawn.choice(_EXTREMES, extreme.sum())
    values, order = torch.from_numpy(numbers.astype(np.float32)), torch.from_numpy(drawn.permutation(count))
    groups = {"half": tuple(widths), "one": (length,)}
    columns = [Column("half", (length,), "float16", groups["half"]), Column("one", (length,), "float16")]

    def given_rows(checkpoint: StoredCheckpoint, rows: RowRange) -> Batches:
        for numbers in order[(order >= rows.start) & (order < rows.stop)].split(batch):
            yield numbers, dict.fromkeys(("half", "one", "x"), values[numbers])

    folder = tmp_path_factory.mktemp("any")
    wanted = plan(count, size=size, checkpoints=1, columns=(*columns, Column("x", (length,))))
    store = build(folder, wanted, given_rows)
    (checkpoint,) = store.manifest.checkpoints
    assert torch.equal(store.read(checkpoint, "x"), values)
    for name, lengths in groups.items():
        found = store.read(checkpoint, name)
        for part, whole in zip(found.split(lengths, 1), values.double().split(lengths, 1), strict=True):
            largest = whole.abs().amax(dim=1, keepdim=True).clamp(min=_NORMAL)
            assert ((part.double() - whole).abs() <= largest * 2.0**-11).all()
    shutil.rmtree(folder)


def test_a_manifest_comes_back_as_it_was_written(store: RowStore) -> None:
    wanted = plan().with_files(store.manifest.files)
    assert store.manifest == wanted and asdict(store.manifest) == asdict(wanted)
    assert store.manifest.spec == {"projector": {"seed": 0, "rank": 4}, "layers": ["a", "b"]}
    assert store.bytes == sum(path.stat().st_size for path in (store.folder / "segments").rglob("*.safetensors"))


@pytest.mark.parametrize("left", [0, 4, 8, 60, -1])
def test_a_truncated_file_is_an_error_and_no_bus_error(left: int, store: RowStore) -> None:
    """When the store is opened, when a file is cut after that, and when it is built again."""
    checkpoint, rows = store.manifest.checkpoints[1], store.manifest.ranges[1]
    path = store.folder / store.manifest.segment_path(checkpoint, rows)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(StoreError, match=r"truncated.*headwater index"):
        RowStore.open(store.folder)
    with pytest.raises(StoreError, match=r"truncated|damaged"):
        store.read(checkpoint, "losses")
    with pytest.raises(StoreError, match=r"truncated|damaged"):
        build(store.folder, plan(), never)


def test_verify_names_every_damaged_file_at_once(store: RowStore) -> None:
    store.verify()
    names = sorted(store.manifest.files)
    for name in (names[0], names[2]):
        data = bytearray((store.folder / name).read_bytes())
        data[-1] ^= 1
        (store.folder / name).write_bytes(data)
    (store.folder / names[3]).unlink()
    with pytest.raises(StoreError) as caught:
        store.verify()
    assert [name in str(caught.value) for name in names] == [True, False, True, True, False, False]


def test_a_store_of_token_gradients_is_no_store_of_rows(store: RowStore, tmp_path: Path) -> None:
    from headwater.store import Store
    from store.conftest import build as build_tokens
    from store.conftest import plan as plan_tokens

    with pytest.raises(StoreError, match="damaged manifest"):
        RowStore.open(build_tokens(tmp_path / "tokens", plan_tokens(10)).folder)
    with pytest.raises(StoreError, match="damaged manifest"):
        Store.open(store.folder)


def test_a_file_of_other_arrays_than_the_manifest_s_is_damaged(store: RowStore, tmp_path: Path) -> None:
    """Such as a file of another build put into the place of this one."""
    other = build(tmp_path / "other", plan(columns=(replace(COLUMNS[0], widths=()), *COLUMNS[1:])))
    checkpoint, rows = store.manifest.checkpoints[0], store.manifest.ranges[0]
    name = store.manifest.segment_path(checkpoint, rows)
    (store.folder / name).write_bytes((other.folder / name).read_bytes())
    with pytest.raises(StoreError, match="its arrays are not those of the manifest"):
        store.read(checkpoint, "losses")


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_flipped_bytes_never_come_out_as_another_error(tmp_path_factory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "flipped rows"
    if not folder.exists():
        build(folder, plan(5, checkpoints=1))
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")}
    path = data.draw(st.sampled_from(sorted(whole)))
    changed = bytearray(whole[path])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    try:
        store = RowStore.open(folder)
        for column in COLUMNS:
            assert store.read(store.manifest.checkpoints[0], column.name).shape == (5, *column.shape)
        store.verify()
        assert path.name == NAME  # white space
    except HeadwaterError as error:
        assert str(path) in str(error)
    finally:
        path.write_bytes(whole[path])


WRONG = [
    ("", (3,), "float32", ()),
    ("a.b", (3,), "float32", ()),
    ("a", (0,), "float32", ()),
    ("a", (3, -1), "float32", ()),
    ("a", (3,), "float64", ()),
    ("a", (), "float16", ()),
    ("a", (3, 3), "float16", ()),
    ("a", (3,), "float16", (1, 1)),
    ("a", (3, 3), "float32", (3,)),
    ("a", (3,), "float16", (3, 0)),
]


@pytest.mark.parametrize("given_as", WRONG, ids=str)
def test_a_column_that_cannot_be_is_refused(given_as) -> None:
    with pytest.raises(ValueError, match="column "):
        Column(*given_as)
    with pytest.raises(ValueError, match="each of a name of its own"):
        plan(columns=(COLUMNS[0], COLUMNS[0]))
