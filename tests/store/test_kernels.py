"""The compiled loops: every number is decoded exactly, in every kind of posting, for few queries and for many."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from headwater.gradients import TokenGradients
from headwater.store import Postings, RowRange, Segment, join, postings_in_memory
from headwater.store.postings import encode_block, in_order
from store.conftest import random_gradients


def _segment(gradients: TokenGradients, rows: int, dtype: str) -> Segment:
    small, payload, order = in_order([encode_block(gradients, dtype=dtype)])
    return Segment(None, RowRange(0, rows, "all"), Postings(**{"exponents": None, **small}, payload=payload[order]))


def _scores(asked: TokenGradients, queries: int, segment: Segment, weight: float = 1.0) -> np.ndarray:
    scores = np.zeros((queries, segment.rows.stop), dtype=np.float32)
    join(scores, postings_in_memory(asked), segment, weight)
    return scores


@pytest.mark.parametrize("queries", [1, 5])
def test_every_finite_float16_is_decoded_exactly(queries: int) -> None:
    halves = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)
    halves = halves[halves.isfinite()]
    count = len(halves)
    numbers = np.arange(count)
    stored = Postings(
        tokens=np.array([7]), offsets=np.array([0, count]), rows=numbers.astype(np.uint32),
        norms=halves.abs().float().numpy(), ranks=np.zeros(count, np.uint8), payload=halves[:, None],
        exponents=(numbers % 5 - 2).astype(np.int8),
    )  # fmt: skip
    asked = TokenGradients(torch.arange(queries), torch.full((queries,), 7), torch.full((queries, 1), 2.0**20))
    scores = _scores(asked, queries, Segment(None, RowRange(0, count, "all"), stored), 0.5)
    truth = halves.double().numpy() * 2.0 ** (numbers % 5 - 2) * 2.0**19
    np.testing.assert_array_equal(scores, np.tile(truth, (queries, 1)))


# Widths that are no multiple of what a processor takes at once; tokens with fewer and more vectors than a tile holds.
KINDS = [(kind, width) for kind in ("float32", "float16", "int8") for width in (1, 7, 64, 384)]


@pytest.mark.parametrize(("dtype", "width"), [*KINDS, ("int4", 2), ("int4", 64), ("int4", 384)])
@pytest.mark.parametrize("queries", [1, 3, 4, 18])
def test_scores_are_the_products_of_what_is_stored(dtype: str, width: int, queries: int) -> None:
    segment = _segment(random_gradients(width, 50, width=width, vocabulary=6), 50, dtype)
    asked = random_gradients(1, queries, width=width, vocabulary=6)
    truth = np.zeros((queries, 50))
    stored = segment.postings
    vectors = stored.gradients(slice(None)).double().numpy()
    size = np.zeros_like(truth)
    for query, token, vector in zip(asked.rows, asked.tokens, asked.gradients.double().numpy(), strict=True):
        span = stored.span(int(token))
        truth[query, stored.rows[span]] += 0.3 * vectors[span] @ vector
        size[query, stored.rows[span]] += np.linalg.norm(vectors[span], axis=1) * np.linalg.norm(vector)
    assert (np.abs(_scores(asked, queries, segment, 0.3) - truth) <= 2e-6 * size).all()


def test_a_kind_of_posting_that_the_kernels_do_not_know_is_decoded_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.store.search._PIECE", 37)
    known = _segment(random_gradients(2, 50, vocabulary=6), 50, "float32")
    short = known.postings.payload.bfloat16()
    asked = random_gradients(3, 5, vocabulary=6)
    scores = [
        _scores(asked, 5, replace(known, postings=replace(known.postings, payload=payload)))
        for payload in (short, short.float())
    ]
    assert scores[0].any()
    np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-6 * np.abs(scores[0]).max())


_READ_ONLY = """
import numba.core.caching as caching
for each in list(vars(caching).values()):
    if hasattr(each, "_locator_classes"):
        each._locator_classes = []
import numpy as np
from headwater.store.kernels import add_at
known, place = np.zeros(2), np.zeros(1, "int64")
add_at(known, np.ones((1, 3), "float32"), None, place, place, np.ones((1, 3)), place)
print(known.tolist())
"""


def test_nothing_is_kept_where_nothing_can_be_written() -> None:
    done = subprocess.run([sys.executable, "-c", _READ_ONLY], capture_output=True, text=True)
    assert done.stdout.strip() == "[3.0, 0.0]", done.stderr
