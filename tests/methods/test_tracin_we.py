"""TracIn-WE under every option equals its definition written out over dense gradients; its words add up."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headwater as hw
from headwater.attribution.index import Index
from headwater.errors import UsageError
from headwater.methods import TracInWE
from methods.conftest import LABELS, QUERIES, Dense

_SLOW = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


def _kept(gradients: np.ndarray, dense: Dense, options: Mapping[str, Any]) -> list[int]:
    """The tokens of one text that the options keep: the words of the largest gradients, and special tokens or not."""
    norms = np.linalg.norm(gradients, axis=1)
    there: list[int] = np.flatnonzero(norms).tolist()
    words = sorted((token for token in there if token not in dense.special), key=lambda token: (-norms[token], token))
    special = [token for token in there if token in dense.special and options.get("special_tokens", True)]
    return words[: options.get("max_words")] + special


def _pairs(query: list[int], row: list[int], dense: Dense, options: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Equal tokens; with synonyms also, greedily, the most alike of those left over, one to one."""
    same = [(token, token) for token in query if token in row]
    if not options.get("synonyms"):
        return same
    unit = dense.embeddings / np.maximum(np.linalg.norm(dense.embeddings, axis=1, keepdims=True), 1e-30)
    left, right = (
        [token for token in side if (token, token) not in same and token not in dense.special] for side in (query, row)
    )
    alike = [(round(float(unit[a] @ unit[b]), 6), a, b) for a in left for b in right]
    alike = [entry for entry in alike if entry[0] >= options.get("synonym_threshold", 0.7)]
    for _, a, b in sorted(alike, key=lambda entry: (-entry[0], entry[1], entry[2])):
        if a in left and b in right:
            same.append((a, b))
            left.remove(a)
            right.remove(b)
    return same


def brute_force(dense: Dense, options: Mapping[str, Any]) -> np.ndarray:
    """The definition, pair by pair."""
    shape = (len(dense.queries[0]), len(dense.rows[0]))
    scores, row_squares, query_squares = np.zeros(shape), np.zeros(shape[1]), np.zeros(shape[0])
    for weight, rows, queries in zip(dense.weights, dense.rows, dense.queries, strict=True):
        row_tokens = [_kept(row, dense, options) for row in rows]
        query_tokens = [_kept(query, dense, options) for query in queries]
        row_squares += weight * np.array([(row[kept] ** 2).sum() for row, kept in zip(rows, row_tokens, strict=True)])
        query_squares += weight * np.array(
            [(q[kept] ** 2).sum() for q, kept in zip(queries, query_tokens, strict=True)]
        )
        for q, query in enumerate(queries):
            for x, row in enumerate(rows):
                for a, b in _pairs(query_tokens[q], row_tokens[x], dense, options):
                    scores[q, x] += weight * float(query[a] @ row[b])
    if options.get("normalize") is not None:
        scores /= np.sqrt(row_squares)
    if options.get("normalize") == "both":
        scores /= np.sqrt(query_squares)[:, None]
    return scores


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "max_words": st.sampled_from([None, 1, 2, 3, 5, 254]),
        "special_tokens": st.booleans(),
        "synonyms": st.booleans(),
        "synonym_threshold": st.sampled_from([0.2, 0.4, 0.6]),
        "normalize": st.sampled_from([None, "train", "both"]),
    },
)


@settings(max_examples=40, **_SLOW)
@given(OPTIONS)
def test_every_combination_of_options_equals_the_definition(
    index: Index, dense: Dense, options: dict[str, Any]
) -> None:
    truth = brute_force(dense, options)
    ours = index.scores(QUERIES, LABELS, **options)
    assert np.abs(ours - truth).max() <= 1e-5 * np.abs(truth).max()


@pytest.mark.parametrize("most", [1, 2, 4])
def test_topk_keeps_the_largest_words_of_both_sides(most: int, index: Index, dense: Dense) -> None:
    full, ours = index.scores(QUERIES, LABELS), index.scores(QUERIES, LABELS, max_words=most)
    assert np.abs(ours - brute_force(dense, {"max_words": most})).max() <= 1e-5 * np.abs(ours).max()
    assert np.abs(ours - full).max() > 1e-3 * np.abs(full).max()  # it does leave something out


def test_synonyms_do_pair_different_words_here(index: Index, dense: Dense) -> None:
    plain, ours = (brute_force(dense, {"synonyms": on, "synonym_threshold": 0.4}) for on in (False, True))
    assert np.abs(ours - plain).max() > 1e-3 * np.abs(plain).max()
    pairs = [
        (pair, word)
        for answer in index.query(QUERIES, LABELS, k=23, synonyms=True, synonym_threshold=0.4)
        for pair in answer.proponents
        for word in pair.words
        if word.cosine is not None
    ]
    assert pairs and all(0.4 <= word.cosine < 1 and not word.special for _, word in pairs)


def test_max_words_beyond_every_text_is_the_full_score(index: Index) -> None:
    np.testing.assert_array_equal(index.scores(QUERIES, LABELS, max_words=32), index.scores(QUERIES, LABELS))


def test_without_special_tokens_plus_the_special_part_is_the_full_score(index: Index) -> None:
    full = index.scores(QUERIES, LABELS).astype(np.float64)
    words_only = index.scores(QUERIES, LABELS, special_tokens=False).astype(np.float64)
    for number, answer in enumerate(index.query(QUERIES, LABELS, k=len(index))):
        for influence in (*answer.proponents, *answer.opponents):
            row = influence.example.row
            assert influence.special != 0
            assert words_only[number, row] + influence.special == pytest.approx(full[number, row], rel=1e-4, abs=1e-6)


@settings(max_examples=25, **_SLOW)
@given(OPTIONS)
def test_words_add_up_to_the_score_and_it_is_the_score(index: Index, options: dict[str, Any]) -> None:
    scores = index.scores(QUERIES, LABELS, **options)
    answers = index.query(QUERIES, LABELS, k=len(index), **options)
    for number, answer in enumerate(answers):
        shown = {}
        for influence in (*answer.proponents, *answer.opponents):
            parts = [word.score for word in influence.words]
            assert sum(parts) == pytest.approx(influence.score, rel=1e-6, abs=1e-9 * sum(map(abs, parts)))
            shown[influence.example.row] = influence.score
        assert set(shown) == set(np.flatnonzero(scores[number]).tolist())
        for row, score in shown.items():
            assert score == pytest.approx(float(scores[number, row]), abs=1e-5 * float(np.abs(scores[number]).max()))


@pytest.mark.parametrize("options", [{}, {"max_words": 3}, {"special_tokens": False}, {"normalize": "train"}])
def test_no_row_works_against_itself(options: dict[str, Any], run: hw.Run, index: Index) -> None:
    texts, labels = [e.text for e in run.corpus], [str(e.label) for e in run.corpus]
    assert (np.diag(index.scores(texts, labels, **options)) >= 0).all()


def test_normalised_on_both_sides_scores_are_cosines(run: hw.Run, index: Index) -> None:
    texts, labels = [e.text for e in run.corpus], [str(e.label) for e in run.corpus]
    cosines = index.scores(texts, labels, normalize="both")
    assert np.abs(cosines).max() <= 1 + 1e-5
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-4)
    np.testing.assert_allclose(cosines, cosines.T, atol=1e-5)


def test_normalising_by_the_row_divides_by_its_norm_over_all_checkpoints(index: Index, dense: Dense) -> None:
    squares = sum(w * (rows**2).sum((1, 2)) for w, rows in zip(dense.weights, dense.rows, strict=True))
    plain, divided = index.scores(QUERIES, LABELS), index.scores(QUERIES, LABELS, normalize="train")
    np.testing.assert_allclose(divided, plain / np.sqrt(squares), rtol=1e-4, atol=1e-6 * np.abs(divided).max())


@pytest.mark.parametrize(
    "options", [{}, {"normalize": "train"}, {"normalize": "both"}, {"synonyms": True, "synonym_threshold": 0.3}]
)
def test_equal_rows_are_listed_by_their_numbers_also_where_the_list_ends(options: dict[str, Any], index: Index) -> None:
    """Rows 3, 20, 21 are one text under one label, and so are 5 and 22."""
    whole = index.query(QUERIES, LABELS, k=len(index), **options)
    for k in range(1, 12):
        for answer, full in zip(index.query(QUERIES, LABELS, k=k, **options), whole, strict=True):
            for side, everything in ((answer.proponents, full.proponents), (answer.opponents, full.opponents)):
                rows = [influence.example.row for influence in side]
                assert rows == [influence.example.row for influence in everything[:k]]
                for first, second in combinations([row for row in rows if row in (3, 20, 21)], 2):
                    assert first < second


def test_the_order_is_that_of_float64(index: Index, dense: Dense) -> None:
    truth = brute_force(dense, {})
    for number, answer in enumerate(index.query(QUERIES, LABELS, k=len(index))):
        scores = [influence.score for influence in answer.proponents]
        assert scores == sorted(scores, reverse=True) and min(scores) > 0
        np.testing.assert_allclose(
            scores, truth[number, [i.example.row for i in answer.proponents]], rtol=1e-4, atol=1e-7
        )
        assert [i.score for i in answer.opponents] == sorted(i.score for i in answer.opponents)


def test_parts_of_checkpoints_add_up(index: Index) -> None:
    names = [checkpoint.name for checkpoint in index.checkpoints]
    parts = [index.scores(QUERIES, LABELS, checkpoints=(name,), synonyms=True, max_words=3) for name in names]
    whole = index.scores(QUERIES, LABELS, synonyms=True, max_words=3)
    np.testing.assert_allclose(sum(parts), whole, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize(
    "options", [{"max_words": 0}, {"max_words": 255}, {"normalize": "rows"}, {"synonym_threshold": 0.0}]
)
def test_options_out_of_range_say_what_is_allowed(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"1 to 254|None, 'train' or 'both'|above 0 and at most 1"):
        TracInWE(**options)


def test_an_index_of_few_words_answers_with_as_many_on_both_sides_and_refuses_more(
    run: hw.Run, index: Index, tmp_path
) -> None:
    few = hw.Index.build(run, tmp_path / "few", dtype="float32", max_words=3)
    assert few.bytes < index.bytes
    expected = index.scores(QUERIES, LABELS, max_words=3)
    np.testing.assert_allclose(few.scores(QUERIES, LABELS), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(few.scores(QUERIES, LABELS, max_words=3), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        few.scores(QUERIES, LABELS, max_words=2), index.scores(QUERIES, LABELS, max_words=2), rtol=1e-5, atol=1e-7
    )
    assert few.query(QUERIES, LABELS).facts["options"]["max_words"] == 3
    with pytest.raises(UsageError, match="keeps 3 words"):
        few.scores(QUERIES, LABELS, max_words=4)
