"""The stated bound on float32 rounding holds, so that whatever float64 would put on a list is looked at."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.gradients import PlaceGradients, TokenGradients
from headwater.methods import TokenPart, TracInWE
from headwater.methods.tracin_we import match
from headwater.store import Store, build_store, postings_in_memory
from store.conftest import SPECIAL, plan, random_gradients

ROWS, QUERIES, WIDTH = 40, 3, 48


def _store(folder: Path, seed: int, scale: float) -> Store:
    everything = random_gradients(seed, ROWS, width=WIDTH, scale=scale)

    def rows_of(_: object, rows) -> list[TokenGradients]:
        here = (everything.rows >= rows.start) & (everything.rows < rows.stop)
        return [TokenGradients(everything.rows[here], everything.tokens[here], everything.gradients[here])]

    build_store(folder, plan(ROWS, checkpoints=2, size=16, dtype="float16"), rows_of, others={}, kept=lambda _: None)
    return Store.open(folder)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-6, 1.0, 1e5]),
    weight=st.sampled_from([1e-6, 1.0]),
    normalize=st.sampled_from([None, "train", "both"]),
    synonyms=st.booleans(),
    most=st.sampled_from([None, 2]),
)
def test_no_score_is_further_from_float64_than_the_bound_says(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int, scale: float, weight: float, normalize: str | None, synonyms: bool, most: int | None,
) -> None:  # fmt: skip
    store = _store(tmp_path_factory.mktemp("s") / "i", seed, scale)
    asked = random_gradients(seed + 1, QUERIES, width=WIDTH, scale=scale)
    places = PlaceGradients(asked.rows, torch.arange(len(asked.rows)), asked.tokens, asked.gradients)
    parts = [
        TokenPart(store, checkpoint, weight * checkpoint.weight, postings_in_memory(asked, special=SPECIAL), places)
        for checkpoint in store.manifest.checkpoints
    ]
    options = TracInWE(max_words=most, normalize=normalize, synonyms=synonyms, synonym_threshold=0.1)
    matched = match(parts, QUERIES, options, torch.randn(12, 4, generator=torch.Generator().manual_seed(seed)))
    scores = np.zeros((QUERIES, ROWS), dtype=np.float32)
    matched.score(scores)
    bound = matched.rounding()
    for query in range(QUERIES):
        exact = matched.explain(query, np.arange(ROWS)).scores(np.arange(ROWS))
        assert np.abs(scores[query] - exact).max() <= bound[query]
