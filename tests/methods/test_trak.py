"""TRAK against its closed form; its ensembles; logistic regression without a row; losses that it cannot take."""

from typing import Any

import numpy as np
import pytest

from headwater.errors import UsageError
from headwater.methods import get_method
from headwater.methods.trak import draw
from headwater.runs import CausalLM, Classification, CustomLoss
from methods.layer_parts import QUERIES, ROWS, Arrays, Asked, arrays, check, of_gradients, pair_values, scorer


def _parts(given: Arrays, matrix: np.ndarray | None = None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each checkpoint phi_q (Phi^T Phi)^-1 phi_x, and 1 - p of the rows."""
    products, wrong = [], []
    for x, q in zip(given.rows, given.queries, strict=True):
        phi, asked = (-s.gradients / (1 - np.exp(-s.losses))[:, None] for s in (x, q))
        if matrix is not None:
            phi, asked = phi @ matrix, asked @ matrix
        products.append(asked @ np.linalg.inv(phi.T @ phi) @ phi.T)
        wrong.append(1 - np.exp(-x.losses))
    return products, wrong


def test_it_is_the_closed_form_and_averages_both_factors_apart() -> None:
    given = arrays(0)
    (one, other), (p, r) = _parts(given)
    assert not np.allclose((one * p + other * r) / 2, (one + other) * (p + r) / 4)
    check("trak", given, (one + other) / 2 * (p + r) / 2, dim=2048)


def test_a_second_projection_shortens_longer_gradients() -> None:
    given = arrays(1)
    matrix = draw(14, 9, 5)
    assert matrix is not None and matrix.shape == (14, 9)
    (one, other), (p, r) = _parts(given, matrix.double().numpy())
    check("trak", given, (one + other) / 2 * (p + r) / 2, dim=9, seed=5, tolerance=1e-5)


def test_gradients_no_longer_than_dim_are_exact() -> None:
    given = arrays(1)
    everything = np.arange(ROWS)
    one, other = (scorer("trak", given, dim=d).explain(0, everything).scores(everything) for d in (14, 5000))
    assert (one == other).all()


def test_without_a_dim_there_are_four_rows_a_dimension() -> None:
    given, everything = arrays(1), np.arange(ROWS)
    by_default, asked = (
        scorer("trak", given, **options).explain(0, everything).scores(everything)
        for options in ({}, {"dim": ROWS // 4})
    )
    assert ROWS // 4 < 14 and (by_default == asked).all()


def test_the_projection_keeps_products_on_average_and_follows_from_its_seed() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 300))
    found = []
    for seed in range(200):
        matrix = draw(300, 64, seed)
        assert matrix is not None
        found.append(one @ matrix.numpy() @ (other @ matrix.numpy()))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - one @ other) < 4 * error
    again, third = draw(300, 64, 7), draw(300, 64, 8)
    assert again is not None and third is not None
    assert (again == draw(300, 64, 7)).all() and (again != third).any()


def test_fewer_rows_than_dimensions_use_the_pseudo_inverse() -> None:
    given = arrays(2, rows=6)
    products = []
    for x, q in zip(given.rows, given.queries, strict=True):
        phi, asked = (-s.gradients / (1 - np.exp(-s.losses))[:, None] for s in (x, q))
        products.append(asked @ np.linalg.pinv(phi.T @ phi, rcond=1e-10) @ phi.T)
    wrong = np.mean([1 - np.exp(-x.losses) for x in given.rows], axis=0)
    check("trak", given, np.mean(products, axis=0) * wrong, tolerance=1e-6, dim=2048)


def test_it_foretells_logistic_regression_without_a_row() -> None:
    rng = np.random.default_rng(0)
    features, asked = rng.standard_normal((300, 4)), rng.standard_normal((1, 4))
    labels = np.sign(features @ np.array([0.2, -0.2, 0.1, 0.0]) + rng.standard_normal(300))  # p near 1/2 everywhere

    def fit(kept: np.ndarray) -> np.ndarray:
        w = np.zeros(4)
        for _ in range(30):
            p = 1 / (1 + np.exp(-labels[kept] * (features[kept] @ w)))
            gradient = -((1 - p) * labels[kept]) @ features[kept]
            hessian = (features[kept] * (p * (1 - p))[:, None]).T @ features[kept]
            w -= np.linalg.solve(hessian + 1e-9 * np.eye(4), gradient)
        return w

    best = fit(np.ones(300, dtype=bool))
    p, p_asked = (1 / (1 + np.exp(-each)) for each in (labels * (features @ best), asked @ best))
    given = of_gradients(
        [-((1 - p) * labels)[:, None] * features], [-(1 - p_asked)[:, None] * asked], widths=(4,), weights=(1.0,)
    )
    given.rows[0].losses, given.queries[0].losses = -np.log(p), -np.log(p_asked)
    some = np.arange(60)
    found = scorer("trak", given).explain(0, some).scores(some)
    drop = [(asked @ best - asked @ fit(np.arange(300) != left_out)).item() for left_out in some]
    # Positive: the log-odds fall without the row.
    assert np.corrcoef(found, drop)[0, 1] > 0.97


def test_a_row_that_is_learnt_by_heart_scores_a_finite_number() -> None:
    given = arrays(3)
    for rows in given.rows:
        rows.losses[2] = 0.0
        rows.places[2] = rows.rests[2] = 0
        rows.__post_init__()
    made = scorer("trak", given)
    out = np.zeros((QUERIES, ROWS), dtype=np.float32)
    made.score(out)
    assert np.isfinite(out).all() and (out[:, 2] == 0).all() and np.isfinite(made.rounding()).all()


def test_its_words_go_through_the_kernel() -> None:
    given = arrays(4)
    kernels, wrong = [], np.mean([1 - np.exp(-x.losses) for x in given.rows], axis=0)
    for x in given.rows:
        phi = x.gradients / (1 - np.exp(-x.losses))[:, None]
        kernels.append(np.linalg.inv(phi.T @ phi))

    def form(part: int, q: np.ndarray, x: np.ndarray, query: int, row: int) -> float:
        ours, theirs = given.queries[part].losses[query], given.rows[part].losses[row]
        scales = (1 - np.exp(-ours)) * (1 - np.exp(-theirs))
        return float(q @ kernels[part] @ x / scales * wrong[row] / 2)

    pair_values(given, scorer("trak", given, dim=2048), form)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Classification(label_smoothing=0.1), "labels are smoothed"),
        (Classification(class_weights={"a": 1.0, "b": 2.0}), "classes are weighted"),
        (CustomLoss(Classification(), lambda model, inputs, targets: targets.float()), "the loss is "),
    ],
)
def test_a_loss_that_is_no_log_probability_is_refused(task: Any, why: str) -> None:
    with pytest.raises(UsageError, match=f"trak needs plain cross entropy.*{why}"):
        scorer("trak", arrays(0), task=task)


def test_language_models_are_taken() -> None:
    method = get_method("trak")
    method.prepare(Asked(arrays(0), task=CausalLM()), method.make_options())  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"dim": 10**6}, {"damping": -1.0}])
def test_options_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        get_method("trak").make_options(**wrong)
