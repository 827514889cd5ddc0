"""What a batch of queries will cost: the parts add up, and nothing is written."""

from collections.abc import Callable
from pathlib import Path

import pytest

import headwater as hw
from cli.conftest import everything_in
from headwater.attribution.estimate_queries import QueryEstimate, estimate_queries
from headwater.errors import StoreError, UsageError


def _adds_up(found: QueryEstimate) -> bool:
    parts = found.first_seconds + found.blocks * found.block_seconds + found.queries * found.query_seconds
    return found.seconds == pytest.approx(parts) and found.seconds > 0


@pytest.mark.parametrize(("count", "blocks"), [(1, 1), (128, 1), (129, 2), (1000, 8)])
def test_the_parts_add_up_and_blocks_are_those_of_the_answer(
    index: hw.Index, run: hw.Run, count: int, blocks: int
) -> None:
    found = estimate_queries(run, index.folder, count)
    assert _adds_up(found) and (found.queries, found.blocks) == (count, blocks)
    assert found.index_bytes == index.bytes and found.memory_bytes > 0 and found.probe_seconds > 0


def test_more_queries_never_cost_less(index: hw.Index, run: hw.Run) -> None:
    found = estimate_queries(run, index.folder, 10)
    assert found.first_seconds >= 0 and found.block_seconds >= 0 and found.query_seconds >= 0


def test_asking_a_few_writes_nothing(index: hw.Index, run: hw.Run) -> None:
    before = everything_in(run.folder)
    estimate_queries(run, index.folder, 3)
    assert everything_in(run.folder) == before


def test_methods_that_read_texts_alone_need_no_index(fresh_run: Callable[..., hw.Run]) -> None:
    run = fresh_run()
    found = estimate_queries(run, run.folder / "index", 5, method="bm25-label")
    assert _adds_up(found) and found.index_bytes == 0 and not (run.folder / "index").exists()


def test_what_cannot_be_asked_says_why(index: hw.Index, run: hw.Run, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="headwater index"):
        estimate_queries(run, tmp_path, 5)
    with pytest.raises(StoreError, match="logra"):
        estimate_queries(run, index.folder, 5, method="logra")
    with pytest.raises(UsageError, match="at least 1"):
        estimate_queries(run, index.folder, 0)
