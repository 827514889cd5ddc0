"""LoGra against numpy's inverse of each layer's damped Fisher information."""

import numpy as np
import pytest

from headwater.errors import UsageError
from headwater.methods import get_method
from methods.layer_parts import QUERIES, ROWS, Arrays, arrays, check, of_gradients, pair_values, scorer


def _inverse(gradients: np.ndarray, spans: list[slice], damping: float) -> np.ndarray:
    whole = np.zeros((gradients.shape[1],) * 2)
    for at in spans:
        here = gradients[:, at]
        fisher = here.T @ here / len(here)
        whole[at, at] = np.linalg.inv(fisher + damping * np.linalg.eigvalsh(fisher).mean() * np.eye(len(fisher)))
    return whole


def _wanted(given: Arrays, damping: float, rows: slice = slice(None)) -> np.ndarray:
    total = np.zeros((QUERIES, ROWS))
    for x, q in zip(given.rows, given.queries, strict=True):
        total += q.gradients @ _inverse(x.gradients[rows], given.spans(), damping) @ x.gradients.T
    return total / len(given.rows)


@pytest.mark.parametrize("damping", [0.1, 2.0])
def test_it_is_the_product_with_the_explicit_inverse(damping: float) -> None:
    given = arrays(0)
    check("logra", given, _wanted(given, damping), damping=damping, tolerance=1e-5)


def test_the_default_damping_is_a_tenth_of_the_mean_eigenvalue() -> None:
    given = arrays(0)
    check("logra", given, _wanted(given, 0.1), tolerance=1e-5)


def test_the_curvature_may_be_of_a_sample() -> None:
    given = arrays(1)
    check("logra", given, _wanted(given, 0.1, slice(None, None, 2)), curvature_rows=ROWS // 2, tolerance=1e-5)


def test_it_is_the_newton_step_of_leaving_a_row_out_of_least_squares() -> None:
    # Ridge regression: loss 1/2 (w.a - b)^2 + 1/2 lam |w|^2; noise 1, so that the Fisher information is the Hessian.
    rng = np.random.default_rng(0)
    rows, width, lam = 4000, 5, 1e-3
    features, asked = rng.standard_normal((rows, width)), rng.standard_normal((1, width))
    truth = rng.standard_normal(width)
    values = features @ truth + rng.standard_normal(rows)
    hessian = features.T @ features / rows + lam * np.eye(width)
    best = np.linalg.solve(hessian, features.T @ values / rows)
    target = asked @ best - 1.0  # a residual of 1 on the query

    def gradients(of: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        return (of @ best - wanted)[:, None] * of

    given = of_gradients([gradients(features, values)], [gradients(asked, target)], widths=(width,))
    some = np.arange(40)
    found = scorer("logra", given, damping=lam).explain(0, some).scores(some)
    change = []
    for left_out in some:
        kept = np.arange(rows) != left_out
        without = np.linalg.solve(hessian * rows - np.outer(*[features[left_out]] * 2), features[kept].T @ values[kept])
        change.append(0.5 * ((asked @ without - target) ** 2 - (asked @ best - target) ** 2).item())
    # Positive: the loss rises without the row.
    assert np.corrcoef(found, change)[0, 1] > 0.995
    np.testing.assert_allclose(np.sum(found * change) / np.sum(found**2), 1 / rows, rtol=0.1)


def test_its_words_go_through_the_inverse() -> None:
    given = arrays(2)
    inverses = [_inverse(x.gradients, given.spans(), 0.1) for x in given.rows]
    pair_values(given, scorer("logra", given), lambda part, q, x, *_: float(q @ inverses[part] @ x / 2))


@pytest.mark.parametrize("wrong", [{"damping": -1.0}, {"curvature_rows": 0}])
def test_options_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        get_method("logra").make_options(**wrong)
