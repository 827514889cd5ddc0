"""What all methods over layer gradients share: words add up, rounding is bounded, queries stand alone."""

import numpy as np
import pytest
import torch
from hypothesis import given as given_examples
from hypothesis import settings
from hypothesis import strategies as st

from headwater.methods import NO_PLACE, NO_TOKEN, Contributions, get_method
from headwater.methods.bilinear import Bilinear, Term, inverse, norms, row_norms, settle
from methods.layer_parts import PLACES, QUERIES, ROWS, Arrays, Asked, arrays, exact, layer_part, scores

K = 14


def _scorer(given: Arrays, seed: int, *, block: int = 7) -> Bilinear:
    rng = np.random.default_rng(seed)
    matrix = torch.tensor(rng.standard_normal((K, K)))
    rows, queries = rng.uniform(0.1, 2, ROWS), rng.uniform(-1, 1, QUERIES)
    parts = [layer_part(given, at, block) for at in range(2)]
    return Bilinear([Term(parts[0], 0.7, lambda v: v @ matrix, queries, rows), Term(parts[1], -0.1)])


def _wanted(given: Arrays, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((K, K))
    rows, queries = rng.uniform(0.1, 2, ROWS), rng.uniform(-1, 1, QUERIES)
    (x0, x1), (q0, q1) = ([side.gradients for side in sides] for sides in (given.rows, given.queries))
    total = np.zeros((QUERIES, ROWS))
    for q in range(QUERIES):
        for x in range(ROWS):
            total[q, x] = 0.7 * queries[q] * rows[x] * (q0[q] @ matrix @ x0[x]) - 0.1 * (q1[q] @ x1[x])
    return total


def test_scores_are_the_formula_of_the_terms() -> None:
    given = arrays(0)
    np.testing.assert_allclose(exact(_scorer(given, 1), given), _wanted(given, 1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(scores(_scorer(given, 1), given), _wanted(given, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [1, 5, 1000])
def test_how_the_rows_are_cut_into_blocks_changes_nothing(block: int) -> None:
    given = arrays(0)
    one, other = _scorer(given, 1), _scorer(given, 1, block=block)
    assert (exact(one, given) == exact(other, given)).all()
    np.testing.assert_allclose(scores(one, given), scores(other, given), rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given_examples(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([2.0**-70, 2.0**-20, 1.0, 2.0**20]),
    widths=st.sampled_from([(4, 6, 4), (700, 1100)]),
    asked_first=st.booleans(),
)
def test_no_score_is_further_from_float64_than_the_bound_says(
    seed: int, scale: float, widths: tuple[int, ...], asked_first: bool
) -> None:
    given = arrays(seed, rows=6, queries=2, widths=widths, scale=scale)
    parts = [layer_part(given, at, 4) for at in range(2)]
    row_scale = inverse(row_norms(parts[1]))
    made = Bilinear([Term(parts[0], 0.3), Term(parts[1], 0.2, lambda v: 3 * v, row_scale=row_scale, reach=1.0)])
    bound = made.rounding() if asked_first else None
    fast = scores(made, given)
    bound = made.rounding() if bound is None else bound
    error = np.abs(fast - exact(made, given))
    assert (error <= bound[:, None]).all()
    assert (bound < 1e-2 * np.abs(fast).max(axis=1) + 1e-30).all()  # and it is of use


def test_values_of_places_are_the_bilinear_form_of_their_vectors_and_add_up_with_a_remainder() -> None:
    given = arrays(3)
    parts = [layer_part(given, at, 7) for at in range(2)]
    diagonal = torch.arange(1.0, K + 1, dtype=torch.float64)
    scale = np.linspace(0.5, 2, ROWS)
    made = Bilinear([Term(parts[0], 0.3, lambda v: v * diagonal, row_scale=scale), Term(parts[1], 0.2)])
    rows = np.array([9, 4], dtype=np.int64)
    found = made.explain(1, rows)
    for row in rows:
        for t in range(PLACES):
            for s in range(PLACES):
                at = (found.rows == row) & (found.train_places == t) & (found.places == s)
                assert (found.train_tokens[at] == 200 + t).all() and (found.query_tokens[at] == 100 + s).all()
                one = given.rows[0].places[row, t] @ (given.queries[0].places[1, s] * diagonal.numpy())
                other = given.rows[1].places[row, t] @ given.queries[1].places[1, s]
                wanted = 0.3 * scale[row] * one + 0.2 * other
                np.testing.assert_allclose(found.values[at].sum(), wanted, rtol=1e-12)
        whole = (found.rows == row) & (found.train_tokens == NO_TOKEN)
        assert whole.sum() >= 1 and (found.places[whole] == NO_PLACE).all()
    assert (found.scores(rows) == made.exact(1, rows)).all()


def test_a_text_without_pooled_layers_has_next_to_no_remainder() -> None:
    given = arrays(5)
    for side in (*given.rows, *given.queries):
        side.rests[:] = 0
        side.__post_init__()
    made = Bilinear([Term(layer_part(given, at, 7), 0.5) for at in range(2)])
    found = made.explain(0, np.arange(ROWS))
    whole = found.train_tokens == NO_TOKEN
    assert np.abs(found.values[whole]).sum() < 1e-12 * np.abs(found.values).sum()


def test_a_pair_that_pushed_nothing_is_no_entry() -> None:
    given = arrays(6)
    for side in given.rows:
        side.places[:, 2] = 0
        side.__post_init__()
    made = Bilinear([Term(layer_part(given, at, 7), 0.5) for at in range(2)])
    found = made.explain(0, np.arange(ROWS))
    assert 2 not in found.train_places and {0, 1, 3} <= set(found.train_places.tolist())


@settings(max_examples=60, deadline=None, derandomize=True)
@given_examples(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.floats(-1e3, 1e3), st.floats(-1e-9, 1e-9))
def test_values_add_up_to_the_score_to_the_last_bit(values: list[float], score: float, small: float) -> None:
    for wanted in (score, small, sum(values) + small):
        rows = np.array([4], dtype=np.int64)
        pieces = Contributions.whole(np.full(len(values), 4), np.array(values))
        assert settle(pieces, rows, np.array([wanted])).scores(rows)[0] == wanted


def test_twins_score_the_same_beside_whatever_else_is_asked() -> None:
    given = arrays(8)
    for part in range(2):
        for of in (given.rows[part].places, given.rows[part].rests):
            of[11] = of[3]
        given.rows[part].__post_init__()
    made = Bilinear([Term(layer_part(given, at, 7), 0.3) for at in range(2)])
    alone = made.exact(0, np.array([11]))
    asked = np.array([20, 3, 0, 11])
    both = made.explain(0, asked).scores(asked)
    assert both[1] == both[3] == alone[0]


@pytest.mark.parametrize("name", ["gradient-cosine", "less", "logra", "datainf", "trackstar", "trak"])
def test_what_was_worked_out_of_the_rows_serves_the_next_question_alike(name: str) -> None:
    one, other = arrays(9), arrays(9)
    for side in other.queries:
        side.gradients[:] = side.gradients[::-1] + 1.0
    method, kept = get_method(name), [{} for _ in range(2)]
    for given in (one, other):
        asked = Asked(given, kept=kept)
        made = method.prepare(asked, method.make_options())  # type: ignore[arg-type]
        fresh = method.prepare(Asked(given), method.make_options())  # type: ignore[arg-type]
        assert (exact(made, given) == exact(fresh, given)).all()
        assert all(kept)


def test_norms_of_vanishing_gradients_are_not_zero() -> None:
    vectors = torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(norms(vectors), [5e-30, 0.0, 5.0], rtol=1e-6)
    np.testing.assert_allclose(inverse(norms(vectors)), [2e29, 0.0, 0.2], rtol=1e-6)
