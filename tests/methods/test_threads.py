"""Scores are the same to the last bit on any number of threads."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from headwater.gradients import PlaceGradients, TokenGradients
from headwater.methods import TokenPart, TracInWE
from headwater.methods.tracin_we import match
from headwater.store import RowRange, Store, StoredCheckpoint, build_store, postings_in_memory
from store.conftest import SPECIAL, plan, random_gradients

ROWS, QUERIES, WIDTH = 200, 9, 48


@pytest.fixture
def store(tmp_path: Path) -> Store:
    everything = random_gradients(0, ROWS, width=WIDTH)

    def rows_of(_: StoredCheckpoint, rows: RowRange) -> list[TokenGradients]:
        here = (everything.rows >= rows.start) & (everything.rows < rows.stop)
        return [TokenGradients(everything.rows[here], everything.tokens[here], everything.gradients[here])]

    wanted = plan(ROWS, checkpoints=2, size=16, dtype="float16")
    build_store(tmp_path / "store", wanted, rows_of, others={}, kept=lambda _: None)
    return Store.open(tmp_path / "store")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("synonyms", [False, True])
def test_scores_do_not_depend_on_the_number_of_threads(store: Store, threads: None, synonyms: bool) -> None:
    asked = random_gradients(1, QUERIES, width=WIDTH)
    places = PlaceGradients(asked.rows, torch.arange(len(asked.rows)), asked.tokens, asked.gradients)
    postings = postings_in_memory(asked, special=SPECIAL)
    parts = [
        TokenPart(store, checkpoint, checkpoint.weight, postings, places) for checkpoint in store.manifest.checkpoints
    ]
    options = TracInWE(synonyms=synonyms, synonym_threshold=0.1)
    matched = match(parts, QUERIES, options, torch.randn(12, 4, generator=torch.Generator().manual_seed(0)))
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        scores = np.zeros((QUERIES, ROWS), dtype=np.float32)
        matched.score(scores)
        found.append(scores.tobytes())
    assert np.frombuffer(found[0], np.float32).any()
    assert len(set(found)) == 1
