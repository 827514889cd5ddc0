"""The join: scores equal a sum over dictionaries of vectors, for every option and however tokens are shared."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.gradients import TokenGradients
from headwater.store import Postings, Store, join, postings_in_memory, restrict, row_vectors
from store.conftest import SPECIAL, Dense, as_dict, build, gradients_of, plan, random_gradients

TOLERANCE = {"float32": 1e-6, "float16": 1e-3, "int8": 2e-2, "int4": 0.3}


def _cut(vectors: Dense, special: bool, most: int | None) -> Dense:
    """What the options keep, by their definition: the words of the largest norms of each row, special tokens or not."""
    kept: Dense = {key: vector for key, vector in vectors.items() if special and key[1] in SPECIAL}
    for row in {row for row, _ in vectors}:
        words = [key for key, vector in vectors.items() if key[0] == row and key[1] not in SPECIAL and vector.any()]
        words.sort(key=lambda key: (-float(np.linalg.norm(vectors[key])), key[1]))
        kept |= {key: vectors[key] for key in words[:most]}
    return kept


def _brute(asked: Dense, stored: Dense, shape: tuple[int, int], special: bool, most: int | None) -> np.ndarray:
    scores = np.zeros(shape)
    left, right = _cut(asked, special, most), _cut(stored, special, most)
    for (query, token), one in left.items():
        for (row, other), vector in right.items():
            if token == other:
                scores[query, row] += one @ vector
    return scores


def _stored(store: Store, at: int = 0) -> Dense:
    checkpoint = store.manifest.checkpoints[at]
    found: Dense = {}
    for rows in store.manifest.ranges:
        for part in gradients_of(checkpoint, rows):
            found |= as_dict(part)
    return found


def _joined(store: Store, asked: Postings, queries: int, weight: float, **options: object) -> np.ndarray:
    scores = np.zeros((queries, store.manifest.rows), dtype=np.float32)
    for segment in store.segments(store.manifest.checkpoints[0]):
        join(scores, asked, segment, weight, **options)
    return scores


# Rows, queries and vocabulary decide whether a token has few pairs (gathered) or many (one matrix product).
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 30),
    queries=st.sampled_from([1, 2, 17]),
    vocabulary=st.sampled_from([3, 12, 60]),
    special=st.booleans(),
    most=st.sampled_from([None, 1, 2, 5, 254]),
    dtype=st.sampled_from(["float32", "float16", "int8", "int4"]),
)
def test_join_equals_brute_force(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int, rows: int, queries: int, vocabulary: int, special: bool, most: int | None, dtype: str,
) -> None:  # fmt: skip
    from headwater.store import build_store

    folder = tmp_path_factory.mktemp("store")
    width = 6 if dtype == "int4" else 5
    everything = random_gradients(seed, rows, width=width, vocabulary=vocabulary)

    def rows_of(_: object, part) -> list[TokenGradients]:
        here = (everything.rows >= part.start) & (everything.rows < part.stop)
        return [TokenGradients(everything.rows[here], everything.tokens[here], everything.gradients[here])]

    build_store(folder, plan(rows, size=9, dtype=dtype), rows_of, others={}, kept=lambda _: None)
    store = Store.open(folder)
    asked = random_gradients(seed + 1, queries, width=width, vocabulary=vocabulary)
    options = {"special_tokens": special, "max_words": most}
    ours = _joined(store, restrict(postings_in_memory(asked, special=SPECIAL), **options), queries, 0.5, **options)
    truth = 0.5 * _brute(as_dict(asked), as_dict(everything), ours.shape, special, most)
    scale = np.outer(*(_norms(part, count) for part, count in ((asked, queries), (everything, rows))))
    assert (np.abs(ours - truth) <= scale * TOLERANCE[dtype] + 1e-30).all()


def _norms(gradients: TokenGradients, count: int) -> np.ndarray:
    squares = np.zeros(count)
    np.add.at(squares, gradients.rows.numpy(), (gradients.gradients.double() ** 2).sum(1).numpy())
    return np.sqrt(squares)


def test_a_query_that_shares_no_token_scores_nothing(store: Store) -> None:
    alone = TokenGradients(torch.tensor([0, 0]), torch.tensor([500, 501]), torch.ones(2, 5))
    assert not _joined(store, postings_in_memory(alone), 1, 1.0).any()
    nothing = TokenGradients(torch.tensor([0]), torch.tensor([3]), torch.zeros(1, 5))
    assert not _joined(store, postings_in_memory(nothing), 1, 1.0).any()


def test_row_vectors_are_what_was_stored(store: Store) -> None:
    truth = _stored(store)
    tokens = np.array([0, 2, 5, 7, 99])
    rows = [9, 3, 4]
    found = {}
    for segment in store.segments(store.manifest.checkpoints[0]):
        part_rows, part_tokens, vectors = row_vectors(segment, np.array(rows), tokens)
        assert list(zip(part_rows, part_tokens, strict=True)) == sorted(zip(part_rows, part_tokens, strict=True))
        found |= dict(zip(zip(part_rows.tolist(), part_tokens.tolist(), strict=True), vectors.numpy(), strict=True))
    expected = {k: v for k, v in truth.items() if k[0] in rows and k[1] in tokens and v.any()}
    assert set(found) == set(expected)
    for key, vector in expected.items():
        np.testing.assert_array_equal(found[key], vector)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("most", [None, 2])
def test_squared_norms_are_those_of_the_rows_kept(store: Store, special: bool, most: int | None) -> None:
    for at, checkpoint in enumerate(store.manifest.checkpoints):
        kept = _cut(_stored(store, at), special, most)
        truth = np.zeros(store.manifest.rows)
        for (row, _), vector in kept.items():
            truth[row] += vector @ vector
        ours = store.squared_norms(checkpoint, special_tokens=special, max_words=most)
        np.testing.assert_allclose(ours, truth, rtol=1e-5)


def test_the_store_holds_every_row_of_every_checkpoint(store: Store, tmp_path: Path) -> None:
    again = build(tmp_path / "again", plan(10, checkpoints=2, size=10))
    asked = postings_in_memory(random_gradients(4, 3), special=SPECIAL)
    assert [len(list(one.segments(one.manifest.checkpoints[1]))) for one in (store, again)] == [3, 1]
    for one in (store, again):
        assert one.bytes == sum(path.stat().st_size for path in one.folder.rglob("*.*") if "lock" not in path.name) - (
            (one.folder / "manifest.json").stat().st_size
        )
    assert _joined(store, asked, 3, 1.0).shape == _joined(again, asked, 3, 1.0).shape == (3, 10)
