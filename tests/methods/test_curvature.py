"""Second moments and their powers, against numpy's loops and inverses."""

import numpy as np
import pytest
import torch

from headwater.errors import UsageError
from headwater.methods import LayerSpan
from headwater.methods.curvature import Blocks, eigen, layer_squares, moments_of, read, second_moments
from methods.layer_parts import ROWS, Arrays, arrays, layer_part


def _moment(gradients: np.ndarray, at: slice, weights: np.ndarray | None = None) -> np.ndarray:
    total = np.zeros((at.stop - at.start,) * 2)
    for number, row in enumerate(gradients):
        total += np.outer(row[at], row[at]) * (1 if weights is None else weights[number])
    return total / len(gradients)


@pytest.mark.parametrize("widths", [(4, 6, 4), (4, 4, 4), (14,), (2, 2, 5, 5)])
@pytest.mark.parametrize("block", [1, 7, 100])
def test_second_moments_are_mean_outer_products_layer_by_layer(widths: tuple[int, ...], block: int) -> None:
    given = arrays(0, widths=widths)
    found = second_moments(layer_part(given, 0, block))
    assert len(found.matrices) == len(widths)
    for matrix, at in zip(found.matrices, given.spans(), strict=True):
        np.testing.assert_allclose(matrix, _moment(given.rows[0].gradients, at), rtol=1e-6, atol=1e-6)


def test_rows_may_weigh_differently_in_each_layer() -> None:
    given = arrays(1)
    weights = torch.rand(ROWS, 3, generator=torch.Generator().manual_seed(0))
    found = second_moments(layer_part(given, 0, 7), weigh=lambda rows, block: weights[rows])
    for number, at in enumerate(given.spans()):
        wanted = _moment(given.rows[0].gradients, at, weights[:, number].double().numpy())
        np.testing.assert_allclose(found.matrices[number], wanted, rtol=1e-5, atol=1e-6)


def test_a_sample_is_evenly_spaced_and_the_whole_is_the_whole() -> None:
    given = arrays(2)
    part = layer_part(given, 0, 7)
    (rows, block), *others = read(part, 6)
    assert rows.tolist() == [0, 4, 8, 12, 16, 20] and not others
    np.testing.assert_array_equal(block, given.rows[0].gradients[rows])
    found = second_moments(part, most_rows=6)
    np.testing.assert_allclose(found.matrices[0], _moment(given.rows[0].gradients[rows], slice(0, 4)), rtol=1e-6)
    for most in (ROWS, ROWS + 5):
        for one, other in zip(
            second_moments(part, most_rows=most).matrices, second_moments(part).matrices, strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_powers_are_numpys_inverse_and_its_square_root() -> None:
    given = arrays(3)
    moments = second_moments(layer_part(given, 0, 7))
    vectors = torch.randn(5, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for damping in (0.0, 0.1, 3.0):
        inverse, root = (eigen(moments).power(p, damping) for p in (-1, -0.5))
        for number, at in enumerate(given.spans()):
            matrix = moments.matrices[number].numpy()
            damped = matrix + damping * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
            wanted = vectors.numpy()[:, at] @ np.linalg.inv(damped)
            np.testing.assert_allclose(inverse(vectors)[:, at], wanted, rtol=1e-8)
            np.testing.assert_allclose(root(root(vectors))[:, at], wanted, rtol=1e-8)
        np.testing.assert_allclose(root.in_float32()(vectors.float()), root(vectors), rtol=1e-4, atol=1e-5)


def test_directions_that_no_gradient_has_are_left_out_where_nothing_damps_them() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, 6))
    spans = (LayerSpan("a", 0, 6),)
    found = eigen(moments_of(torch.tensor(vectors), spans)).power(-1, 0.0)
    np.testing.assert_allclose(found.matrices[0], np.linalg.pinv(vectors.T @ vectors / 3), rtol=1e-8, atol=1e-10)


def test_a_layer_without_any_gradient_stays_zero() -> None:
    found = eigen(moments_of(torch.zeros(4, 3), (LayerSpan("a", 0, 3),))).power(-1, 0.1)
    assert (found.matrices[0] == 0).all()


def test_squares_of_layers_add_up_to_those_of_rows() -> None:
    given: Arrays = arrays(4)
    part = layer_part(given, 0, 100)
    ((_, block),) = part.blocks()
    squares = layer_squares(block, part.layers)
    assert squares.shape == (ROWS, 3)
    np.testing.assert_allclose(squares.sum(dim=1), (given.rows[0].gradients ** 2).sum(axis=1), rtol=1e-5)


def test_a_layer_too_wide_for_a_matrix_is_named() -> None:
    with pytest.raises(UsageError, match=r"embed: 9,000 numbers are stored of this layer, too many"):
        moments_of(torch.zeros(1, 9000), (LayerSpan("embed", 0, 9000),))


def test_numbers_of_no_layer_are_not_passed_on() -> None:
    blocks = Blocks((LayerSpan("a", 1, 3),), (torch.eye(2, dtype=torch.float64) * 2,))
    assert blocks(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist() == [[0.0, 4.0, 6.0, 0.0]]
