"""Synonyms: the pairs of like embedding, and a matching that takes each token of either side once."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.methods.synonyms import Synonym, find_synonyms, pair_tokens


def _brute(vectors: np.ndarray, tokens: list[int], among: list[int], threshold: float, special: set[int]) -> list:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    return sorted(
        (a, b)
        for a in tokens
        for b in among
        if a != b and not {a, b} & special and float(unit[a] @ unit[b]) >= threshold
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 0.9]))
def test_all_pairs_above_the_threshold_are_found_the_most_alike_first(seed: int, threshold: float) -> None:
    drawn = np.random.default_rng(seed)
    vectors = drawn.normal(size=(30, 4))
    vectors[7] = 0  # a padding row is like nothing
    tokens, among = sorted(drawn.choice(30, 8, replace=False).tolist()), drawn.choice(30, 20, replace=False).tolist()
    found = find_synonyms(torch.from_numpy(vectors), tokens, among, threshold=threshold, special=(0, 1))
    assert sorted((pair.query_token, pair.train_token) for pair in found) == _brute(
        vectors, tokens, among, threshold, {0, 1}
    )
    keys = [(-pair.cosine, pair.query_token, pair.train_token) for pair in found]
    assert keys == sorted(keys)


def test_equal_embeddings_pair_by_token_number_whatever_else_is_asked() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(40, 384)
    vectors[[5, 9, 20]] = vectors[3].clone()
    for more in range(1, 30, 7):
        found = find_synonyms(vectors, [9, 20, *range(30, 30 + min(more, 10))], range(40), threshold=0.9)
        assert [(pair.query_token, pair.train_token) for pair in found] == [
            (9, 3),
            (9, 5),
            (9, 20),
            (20, 3),
            (20, 5),
            (20, 9),
        ]


TOKENS = st.sets(st.integers(0, 8), max_size=6)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(TOKENS, TOKENS, st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.floats(0.5, 0.99)), max_size=15))
def test_each_token_of_either_side_is_taken_once_and_equal_tokens_first(
    query: set[int], row: set[int], alike: list[tuple[int, int, float]]
) -> None:
    synonyms = [Synonym(a, b, cosine) for a, b, cosine in sorted(alike, key=lambda pair: -pair[2]) if a != b]
    pairs = pair_tokens(query, row, synonyms)
    assert {pair for pair in pairs if pair[0] == pair[1]} == {(token, token) for token in query & row}
    for side in (0, 1):
        taken = [pair[side] for pair in pairs]
        assert len(taken) == len(set(taken)) and set(taken) <= (query, row)[side]
    # greedy: whatever is left unpaired on both sides has no synonym left
    left, right = query - {a for a, _ in pairs}, row - {b for _, b in pairs}
    assert not any(pair.query_token in left and pair.train_token in right for pair in synonyms)
