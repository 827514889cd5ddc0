"""Representer points: a loop over rows, and the theorem itself: at the minimum the scores add up to the logit."""

import numpy as np
import pytest
import torch

import headwater as hw
from headwater.errors import UsageError
from headwater.methods.representer import Representer, prepare
from methods.baselines import Side, array_question, check_scorer, part, side, softmax


@pytest.mark.parametrize("bias", [True, False])
def test_scores_are_alpha_times_the_product_of_features(bias: bool) -> None:
    rng = np.random.default_rng(1)
    (rows, labels), (queries, targets) = side(rng, 30, 5, 3), side(rng, 4, 5, 3)
    expected = np.zeros((4, 30))
    for q in range(4):
        for x in range(30):
            alpha = -rows.errors[x][targets[q]] / (2 * 0.01 * 30)
            expected[q, x] = alpha * (np.dot(rows.features[x], queries.features[q]) + bias)
    question = array_question([part(rows, queries, bias=bias)], targets, labels, 3)
    check_scorer(prepare(question, Representer(l2=0.01)), expected)


def test_at_the_minimum_the_scores_of_a_query_add_up_to_its_logit() -> None:
    rng = np.random.default_rng(2)
    (rows, labels), (queries, targets) = side(rng, 40, 4, 3), side(rng, 5, 4, 3)
    features = torch.from_numpy(np.hstack([rows.features, np.ones((40, 1))]))

    def objective(flat: torch.Tensor) -> torch.Tensor:
        logits = features @ flat.reshape(3, 5).T
        return torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)) + 0.02 * flat.square().sum()

    weight = torch.zeros(15, dtype=torch.float64)
    for _ in range(20):  # Newton's steps
        slope, bend = torch.func.grad(objective)(weight), torch.func.hessian(objective)(weight)
        weight = weight - torch.linalg.solve(bend, slope)
    assert torch.func.grad(objective)(weight).abs().max() < 1e-13
    matrix = weight.reshape(3, 5).numpy()
    logits = features.numpy() @ matrix.T
    trained = Side(rows.features, logits, softmax(logits) - np.eye(3)[labels])
    scorer = prepare(array_question([part(trained, queries)], targets, labels, 3), Representer(l2=0.02))
    scores = np.zeros((5, 40), dtype=np.float32)
    scorer.score(scores)
    said = np.hstack([queries.features, np.ones((5, 1))]) @ matrix.T
    np.testing.assert_allclose(scores.sum(axis=1), said[np.arange(5), targets], rtol=1e-4, atol=1e-5)


def test_a_row_of_the_querys_class_with_like_features_is_a_proponent() -> None:
    like = Side(np.array([[1.0, 2.0], [1.0, 2.0]]), np.zeros((2, 2)), np.array([[-0.5, 0.5], [0.5, -0.5]]))
    question = array_question([part(like, Side(*(v[:1] for v in vars(like).values())))], [0], [0, 1], 2)
    scores = np.zeros((1, 2), dtype=np.float32)
    prepare(question, Representer()).score(scores)
    assert scores[0, 0] > 0 > scores[0, 1]


def test_the_last_checkpoint_of_each_run_counts_and_runs_are_averaged() -> None:
    rng = np.random.default_rng(3)
    made = [(side(rng, 12, 3, 2)[0], side(rng, 2, 3, 2)[0]) for _ in range(4)]
    parts = [part(*sides, run=number // 2, weight=9.0) for number, sides in enumerate(made)]
    each = [np.zeros((2, 12), dtype=np.float32) for _ in range(3)]
    for out, some in zip(each, (parts, parts[1:2], parts[3:]), strict=True):
        prepare(array_question(some, [0, 1], [0] * 12, 2), Representer()).score(out)
    np.testing.assert_allclose(each[0], (each[1] + each[2]) / 2, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="l2 must be above 0"):
        Representer(l2=0.0)
    features = Side(np.ones((3, 2)), None, None)
    question = array_question([part(features, features)], [0, 0, 0], [0, 0, 0], 2, task=hw.CausalLM())
    with pytest.raises(UsageError, match="needs classes"):
        prepare(question, Representer())
