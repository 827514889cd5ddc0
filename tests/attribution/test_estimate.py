"""What an index will cost, in bytes; times are printed, never asserted."""

from collections.abc import Callable
from pathlib import Path

import pytest

import builders
import headwater as hw
from headwater.attribution.estimate import (
    Estimate,
    available_memory,
    check_disk,
    check_fits,
    estimate_index,
    free_disk,
    process_bytes,
)
from headwater.errors import StoreError


def uneven_rows(count: int = 200) -> list[dict[str, str]]:
    """Rows of 8 to 30 tokens."""
    rows = builders.rows(count)
    return [row | {"text": " ".join([row["text"]] * (1 + number % 3))} for number, row in enumerate(rows)]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("max_words", [None, 3])
def test_bytes_are_within_a_factor_of_two(
    fresh_run: Callable[..., hw.Run], tmp_path: Path, dtype: str, max_words: int | None
) -> None:
    run = fresh_run(uneven_rows())
    options = {"dtype": dtype, "max_words": max_words}
    found = estimate_index(run, tmp_path / "index", checkpoints=run.checkpoints, **options)  # type: ignore[arg-type]
    built = hw.Index.build(run, tmp_path / "index", **options)  # type: ignore[arg-type]
    assert built.bytes / 2 < found.disk_bytes < built.bytes * 2
    assert found.rows == 200 and found.checkpoints == 2 and found.built_bytes == 0
    assert found.memory_bytes > process_bytes() / 2


def test_what_is_built_costs_nothing_again(fresh_run: Callable[..., hw.Run]) -> None:
    run = fresh_run(uneven_rows())
    folder = run.folder / "index"
    whole = estimate_index(run, folder, checkpoints=run.checkpoints)
    hw.Index.build(run)
    finished = estimate_index(run, folder, checkpoints=run.checkpoints)
    assert finished.seconds == 0 and finished.disk_bytes == 0 and finished.probe_seconds == 0
    segment = sorted(folder.glob("segments/*/*.safetensors"))[0]
    size = segment.stat().st_size
    segment.unlink()
    half = estimate_index(run, folder, checkpoints=run.checkpoints)
    assert half.disk_bytes < 0.7 * whole.disk_bytes and size / 2 < half.disk_bytes < size * 2
    assert half.built_bytes == finished.built_bytes - size


def test_the_probe_writes_nothing_and_changes_no_byte(fresh_run: Callable[..., hw.Run], tmp_path: Path) -> None:
    run = fresh_run(uneven_rows(60))
    estimate_index(run, tmp_path / "probed", checkpoints=run.checkpoints)
    assert not (tmp_path / "probed").exists()
    estimate_index(run, tmp_path / "one", checkpoints=run.checkpoints)
    built = [hw.Index.build(run, tmp_path / name).folder for name in ("one", "two")]
    one, two = ({path.name: path.read_bytes() for path in folder.rglob("*.safetensors")} for folder in built)
    assert one == two


def test_what_cannot_fit_is_refused(tmp_path: Path) -> None:
    def needs(disk: int, memory: int) -> Estimate:
        return Estimate(1.0, disk, memory, rows=10, checkpoints=1, probe_seconds=0.1)

    folder = tmp_path / "not" / "there" / "yet"
    check_fits(needs(1000, process_bytes()), folder)
    with pytest.raises(StoreError, match=r"free there.*--out.*--max-words"):
        check_fits(needs(free_disk(folder) * 2, 0), folder)
    with pytest.raises(StoreError, match="free there"):
        check_disk(free_disk(folder) * 2, folder)
    available = available_memory()
    assert available is not None and available > 0
    with pytest.raises(StoreError, match="of memory"):
        check_fits(needs(0, process_bytes() + 2 * available), folder)
    assert not folder.exists()
