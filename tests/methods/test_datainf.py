"""DataInf against its formula, row by row in plain loops."""

import numpy as np
import pytest

from headwater.errors import UsageError
from headwater.methods import get_method
from methods.layer_parts import QUERIES, ROWS, Arrays, arrays, check, pair_values, scorer


def _solve(v: np.ndarray, rows: np.ndarray, damping: float) -> np.ndarray:
    """H_l^-1 v as the paper's equation 5 says it."""
    lam = damping * (rows**2).sum() / (len(rows) * rows.shape[1])
    total = np.zeros_like(v)
    for g in rows:
        total += v - (v @ g) / (lam + g @ g) * g
    return total / (len(rows) * lam)


def _wanted(given: Arrays, damping: float) -> np.ndarray:
    total = np.zeros((QUERIES, ROWS))
    for rows, queries in zip(given.rows, given.queries, strict=True):
        for at in given.spans():
            for q in range(QUERIES):
                solved = _solve(queries.gradients[q, at], rows.gradients[:, at], damping)
                total[q] += rows.gradients[:, at] @ solved
    return total / len(given.rows)


@pytest.mark.parametrize("damping", [0.1, 1.0])
def test_it_is_the_direct_formula(damping: float) -> None:
    given = arrays(0)
    check("datainf", given, _wanted(given, damping), damping=damping, tolerance=1e-5)


def test_the_default_is_the_papers_tenth() -> None:
    given = arrays(0)
    check("datainf", given, _wanted(given, 0.1), tolerance=1e-5)


def test_with_one_row_it_is_the_exact_inverse() -> None:
    given = arrays(1, rows=1)
    check_rows = given.rows[0].gradients
    found = scorer("datainf", given).explain(0, np.array([0])).scores(np.array([0]))[0]
    wanted = 0.0
    for rows, queries in zip(given.rows, given.queries, strict=True):
        for at in given.spans():
            g, v = rows.gradients[0, at], queries.gradients[0, at]
            hessian = np.outer(g, g) + 0.1 * (g @ g) / len(g) * np.eye(len(g))
            wanted += v @ np.linalg.inv(hessian) @ g / 2
    assert check_rows.shape[0] == 1
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_its_words_go_through_the_same_inverse() -> None:
    given = arrays(2)

    def form(part: int, q: np.ndarray, x: np.ndarray, *_: int) -> float:
        rows = given.rows[part].gradients
        return float(sum(_solve(q[at], rows[:, at], 0.1) @ x[at] for at in given.spans()) / 2)

    pair_values(given, scorer("datainf", given), form)


def test_a_layer_that_pushed_nothing_counts_nothing() -> None:
    given = arrays(3)
    for rows in given.rows:
        rows.places[..., 4:10] = 0
        rows.rests[..., 4:10] = 0
        rows.__post_init__()
    found = scorer("datainf", given).explain(0, np.arange(ROWS)).scores(np.arange(ROWS))
    assert np.isfinite(found).all() and (found != 0).all()


def test_a_damping_of_0_is_refused() -> None:
    with pytest.raises(UsageError, match="damping must be above 0"):
        get_method("datainf").make_options(damping=0.0)
