"""Influence on the last layer is the derivative of retraining: a softmax regression trained with a row's weight moved.

The oracle trains by Newton's method on torch's own cross entropy and its automatic Hessian: no formula of ours.
"""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import headwater as hw
from headwater.errors import UsageError
from headwater.methods.influence_last import InfluenceLast, prepare
from headwater.methods.softmax_curvature import Curvature
from methods.baselines import Side, array_question, check_scorer, part, side

N, WIDTH, CLASSES, L2 = 24, 3, 3, 0.05


class Regression:
    """Minimum of 1/n sum_x loss(x) + push * loss(pushed row) + L2/2 |W|^2, in float64."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, weights: list[float] | None, smoothing: float) -> None:
        self.features = torch.from_numpy(np.hstack([features, np.ones((len(features), 1))]))
        self.labels = torch.from_numpy(labels)
        self.options = {
            "weight": None if weights is None else torch.tensor(weights, dtype=torch.float64),
            "label_smoothing": smoothing,
            "reduction": "none",
        }

    def losses(self, weight: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(features @ weight.reshape(CLASSES, -1).T, labels, **self.options)

    def train(self, row: int = 0, push: float = 0.0) -> Tensor:
        counts = torch.full((len(self.labels),), 1 / len(self.labels), dtype=torch.float64)
        counts[row] += push

        def objective(weight: Tensor) -> Tensor:
            return counts @ self.losses(weight, self.features, self.labels) + L2 / 2 * weight.square().sum()

        weight = torch.zeros(CLASSES * self.features.shape[1], dtype=torch.float64)
        for _ in range(15):
            bend = torch.func.hessian(objective)(weight)
            weight = weight - torch.linalg.solve(bend, torch.func.grad(objective)(weight))
        assert torch.func.grad(objective)(weight).abs().max() < 1e-13
        return weight

    def said(self, weight: Tensor, features: np.ndarray, labels: np.ndarray) -> Side:
        """Logits of some texts, and errors by automatic differentiation."""
        padded = np.hstack([features, np.ones((len(features), 1))])
        logits = (torch.from_numpy(padded) @ weight.reshape(CLASSES, -1).T).requires_grad_()
        loss = cross_entropy(logits, torch.from_numpy(labels), **self.options).sum()
        (errors,) = torch.autograd.grad(loss, logits)
        return Side(features, logits.detach().numpy(), errors.numpy())


@pytest.mark.parametrize(
    ("weights", "smoothing"), [(None, 0.0), ({"class-0": 2.0, "class-1": 0.5, "class-2": 1.0}, 0.0),
                               (None, 0.2), ({"class-2": 3.0, "class-0": 0.25, "class-1": 1.0}, 0.1)],
)  # fmt: skip
def test_scores_are_the_derivative_of_retraining(weights: Mapping[str, float] | None, smoothing: float) -> None:
    rng = np.random.default_rng(5)
    (rows, labels), (queries, targets) = side(rng, N, WIDTH, CLASSES), side(rng, 3, WIDTH, CLASSES)
    ordered = None if weights is None else [weights[f"class-{number}"] for number in range(CLASSES)]
    model = Regression(rows.features, labels, ordered, smoothing)
    best = model.train()
    at_rows, at_queries = model.said(best, rows.features, labels), model.said(best, queries.features, targets)
    task = hw.Classification(class_weights=weights, label_smoothing=smoothing)
    question = array_question([part(at_rows, at_queries)], targets, labels, CLASSES, task=task)
    scores = np.zeros((3, N), dtype=np.float32)
    prepare(question, InfluenceLast(damping=L2)).score(scores)

    padded = torch.from_numpy(np.hstack([queries.features, np.ones((3, 1))]))
    for row in range(0, N, 5):
        step = 1e-5
        losses = [model.losses(model.train(row, push), padded, torch.from_numpy(targets)) for push in (step, -step)]
        derivative = ((losses[0] - losses[1]) / (2 * step)).numpy()
        np.testing.assert_allclose(scores[:, row], -derivative / N, rtol=1e-4, atol=1e-7)
    without = model.losses(model.train(3, -1 / N), padded, torch.from_numpy(targets))
    gained = (without - model.losses(best, padded, torch.from_numpy(targets))).numpy()
    assert np.corrcoef(gained, scores[:, 3])[0, 1] > 0.99  # left out for good: the same way, nearly the same size


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_both_solvers_equal_a_hessian_made_row_by_row(solver: str, bias: bool) -> None:
    rng = np.random.default_rng(6)
    (rows, labels), (queries, targets) = side(rng, 30, 5, 3), side(rng, 4, 5, 3)

    def gradient(at: Side, x: int) -> np.ndarray:
        return np.outer(at.errors[x], np.append(at.features[x], [1.0] * bias)).ravel()

    hessian = np.zeros((3 * (5 + bias),) * 2)
    for x in range(30):
        p = np.exp(rows.logits[x]) / np.exp(rows.logits[x]).sum()
        a = np.append(rows.features[x], [1.0] * bias)
        hessian += np.kron(np.diag(p) - np.outer(p, p), np.outer(a, a)) / 30
    for damping, added in ((0.02, 0.02), (None, 0.1 * np.diag(hessian).mean())):
        inverse = np.linalg.inv(hessian + added * np.eye(len(hessian)))
        expected = np.array(
            [[gradient(queries, q) @ inverse @ gradient(rows, x) / 30 for x in range(30)] for q in range(4)]
        )
        question = array_question([part(rows, queries, bias=bias)], targets, labels, 3)
        check_scorer(prepare(question, InfluenceLast(damping=damping, solver=solver)), expected, atol=1e-9)


def test_beyond_the_dense_bound_the_solver_changes_and_the_scores_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    (rows, labels), (queries, targets) = side(rng, 20, 4, 2), side(rng, 2, 4, 2)
    question = array_question([part(rows, queries)], targets, labels, 2)
    dense, iterated = np.zeros((2, 20), np.float32), np.zeros((2, 20), np.float32)
    prepare(question, InfluenceLast()).score(dense)
    monkeypatch.setattr("headwater.methods.influence_last.MOST_DENSE", 3)
    monkeypatch.setattr(Curvature, "dense", lambda self: pytest.fail("the Hessian was formed"))
    prepare(question, InfluenceLast()).score(iterated)
    np.testing.assert_allclose(iterated, dense, rtol=1e-6, atol=1e-9)


def test_a_query_that_pushes_nothing_scores_nothing() -> None:
    rng = np.random.default_rng(8)
    (rows, labels), (queries, targets) = side(rng, 20, 4, 2), side(rng, 2, 4, 2)
    queries.errors[0] = 0.0
    for solver in ("cholesky", "cg"):
        scores = np.zeros((2, 20), np.float32)
        question = array_question([part(rows, queries)], targets, labels, 2)
        prepare(question, InfluenceLast(solver=solver)).score(scores)
        assert not scores[0].any() and scores[1].any()


def _focal(model: object, inputs: object, targets: Tensor) -> Tensor:
    return targets.float()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="damping must be above 0"):
        InfluenceLast(damping=0.0)
    with pytest.raises(UsageError, match="solver must be auto, cholesky or cg"):
        InfluenceLast(solver="lu")  # type: ignore[arg-type]
    rng = np.random.default_rng(9)
    (rows, labels), (queries, targets) = side(rng, 8, 2, 2), side(rng, 2, 2, 2)
    for task in (hw.CustomLoss(hw.Classification(), _focal), hw.CausalLM()):
        question = array_question([part(rows, queries)], targets, labels, 2, task=task)
        with pytest.raises(UsageError, match="the curvature of cross entropy alone"):
            prepare(question, InfluenceLast())
    sure = Side(rows.features, np.array([[800.0, 0.0]] * 8), rows.errors)
    with pytest.raises(UsageError, match="no curvature in the last layer; give a damping"):
        prepare(array_question([part(sure, queries)], targets, labels, 2), InfluenceLast())
