"""Postings: how exactly vectors are kept, that norms bound them, ranks and impact order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.gradients import TokenGradients
from headwater.store import Postings, keep_mask, postings_in_memory, restrict
from headwater.store.postings import SPECIAL_RANK, encode_block, in_order
from store.conftest import SPECIAL, as_dict, random_gradients


def _of_vectors(vectors: np.ndarray) -> TokenGradients:
    count = len(vectors)
    return TokenGradients(torch.zeros(count, dtype=torch.long), torch.arange(count), torch.from_numpy(vectors))


def _postings(gradients: TokenGradients, dtype: str, **options: object) -> Postings:
    small, payload, order = in_order([encode_block(gradients, dtype=dtype, **options)])
    return Postings(**({"exponents": None} | small), payload=payload[torch.from_numpy(order)])


def _decoded(gradients: TokenGradients, dtype: str) -> tuple[dict[tuple[int, int], np.ndarray], Postings]:
    found = _postings(gradients, dtype)
    keys = zip(found.rows.tolist(), found.token_of().tolist(), strict=True)
    return dict(zip(keys, found.gradients(slice(None)).double().numpy(), strict=True)), found


_MAGNITUDES = st.floats(-38, 30, allow_nan=False)


@st.composite
def _vectors(draw: st.DrawFn) -> np.ndarray:
    """Some vectors of one width, each of its own magnitude, with components that differ by up to five more."""
    width = draw(st.sampled_from([1, 2, 7, 64]))
    magnitudes = draw(st.lists(st.one_of(_MAGNITUDES, st.none()), min_size=1, max_size=6))
    drawn = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = []
    for magnitude in magnitudes:
        row = drawn.normal(size=width) * 10.0 ** drawn.uniform(-5, 0, size=width)
        row /= np.abs(row).max()
        rows.append(np.zeros(width) if magnitude is None else row * 10.0**magnitude)
    return np.array(rows).astype(np.float32)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(_vectors())
def test_float16_keeps_each_component_to_2_to_the_minus_11_of_the_largest(vectors: np.ndarray) -> None:
    decoded, _ = _decoded(_of_vectors(vectors), "float16")
    for token, vector in enumerate(vectors.astype(np.float64)):
        kept = decoded.get((0, token), np.zeros(len(vector)))
        assert np.abs(kept - vector).max() <= 2.0**-11 * np.abs(vector).max()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_vectors())
def test_float32_keeps_every_bit(vectors: np.ndarray) -> None:
    decoded, _ = _decoded(_of_vectors(vectors), "float32")
    for token, vector in enumerate(vectors):
        np.testing.assert_array_equal(decoded.get((0, token), np.zeros(len(vector))), vector.astype(np.float64))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(_vectors())
def test_norms_bound_the_decoded_vectors_from_above_and_closely(dtype: str, vectors: np.ndarray) -> None:
    decoded, found = _decoded(_of_vectors(vectors), dtype)
    for norm, row, token in zip(found.norms.tolist(), found.rows, found.token_of(), strict=True):
        exact = float(np.sqrt((decoded[int(row), int(token)] ** 2).sum()))
        assert exact <= norm <= exact * 1.0001 + 1e-44
    assert set(decoded) == {(0, token) for token, vector in enumerate(vectors) if vector.any()}


def test_norms_of_long_vectors_are_bounds_too() -> None:
    """Equal components, the worst case of a sum: its rounding errors do not cancel."""
    for value in np.float32([0.1, 1.1, 1.9999, 3e-20, 7e25]):
        for width in (384, 4096, 20_000):
            for dtype in ("float16", "float32"):
                decoded, found = _decoded(_of_vectors(np.full((1, width), value)), dtype)
                assert float(np.linalg.norm(decoded[0, 0])) <= float(found.norms[0])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_within_a_token_postings_stand_by_descending_norm_then_row(dtype: str) -> None:
    gradients = random_gradients(3, 30)
    doubled = TokenGradients(
        torch.cat([gradients.rows, gradients.rows + 30]),
        torch.cat([gradients.tokens] * 2),
        torch.cat([gradients.gradients] * 2),  # every norm occurs twice
    )
    found = _postings(doubled, dtype)
    assert found.tokens.tolist() == sorted(set(found.tokens.tolist())) and found.offsets[-1] == len(found)
    for token in found.tokens:
        span = found.span(int(token))
        keys = list(zip((-found.norms[span]).tolist(), found.rows[span].tolist(), strict=True))
        assert keys == sorted(keys) and len(keys) > 1
    assert found.span(999) == slice(0, 0)


def test_ranks_count_the_words_of_a_row_by_norm_and_no_special_token() -> None:
    gradients = random_gradients(5, 20)
    found = _postings(gradients, "float32", special=SPECIAL)
    ranks = {(int(r), int(t)): int(k) for r, t, k in zip(found.rows, found.token_of(), found.ranks, strict=True)}
    norms = {key: np.linalg.norm(vector) for key, vector in as_dict(gradients).items()}
    for row in range(20):
        words = [key for key in norms if key[0] == row and key[1] not in SPECIAL and norms[key] > 0]
        by_norm = sorted(words, key=lambda key: (-norms[key], key[1]))
        assert [ranks[key] for key in by_norm] == list(range(len(by_norm)))
    assert all(rank == SPECIAL_RANK for (_, token), rank in ranks.items() if token in SPECIAL)


def test_ranks_end_at_254_and_equal_norms_rank_by_token() -> None:
    vectors = np.ones((400, 2), dtype=np.float32)
    found = _postings(_of_vectors(vectors), "float32", special=(7,))
    ranks = dict(zip(found.token_of().tolist(), found.ranks.tolist(), strict=True))
    words = [token for token in range(400) if token != 7]
    assert [ranks[token] for token in words] == [min(place, 254) for place in range(399)] and ranks[7] == SPECIAL_RANK
    kept = keep_mask(found.ranks, special_tokens=False, max_words=254)
    assert sorted(found.token_of()[kept].tolist()) == words[:254]


def test_zero_vectors_are_dropped() -> None:
    vectors = np.zeros((3, 4), dtype=np.float32)
    vectors[1, 2] = 1e-30
    for dtype in ("float16", "float32"):
        assert _postings(_of_vectors(vectors), dtype).token_of().tolist() == [1]
        nothing = _postings(_of_vectors(vectors[:1]), dtype)
        assert len(nothing) == 0 and nothing.offsets.tolist() == [0] and nothing.dimension == 4


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("most", [None, 1, 3, 200])
def test_storing_few_words_is_storing_all_and_restricting(special: bool, most: int | None) -> None:
    gradients = random_gradients(8, 15)
    few = postings_in_memory(gradients, special=SPECIAL, max_words=most)
    cut = restrict(postings_in_memory(gradients, special=SPECIAL), special_tokens=True, max_words=most)
    np.testing.assert_array_equal(few.rows, cut.rows)
    np.testing.assert_array_equal(few.token_of(), cut.token_of())
    assert torch.equal(few.payload, cut.payload)
    words = restrict(few, special_tokens=special, max_words=most)
    assert special == bool(set(words.tokens.tolist()) & set(SPECIAL))
    counts = np.bincount(words.rows[~np.isin(words.token_of(), SPECIAL)])
    assert most is None or counts.max() == min(most, counts.max())
