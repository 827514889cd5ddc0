"""TrackStar: its formula with numpy's matrices, its mix, and the cosine that it is where there is no curvature."""

import numpy as np
import pytest
import torch

from headwater.errors import UsageError
from headwater.methods import LayerSpan, get_method
from headwater.methods.curvature import eigen, moments_of
from headwater.methods.trackstar import mix_of
from methods.layer_parts import QUERIES, ROWS, WEIGHTS, Arrays, Asked, arrays, check, of_gradients, pair_values, scorer

DIMENSIONS = 14  # of all layers: the crossing is at the highest eigenvalue


def _moments(gradients: np.ndarray, spans: list[slice]) -> np.ndarray:
    whole = np.zeros((gradients.shape[1],) * 2)
    for at in spans:
        whole[at, at] = gradients[:, at].T @ gradients[:, at] / len(gradients)
    return whole


def _mix(train: np.ndarray, asked: np.ndarray) -> float:
    s_train, s_eval = (np.sort(np.linalg.eigvalsh(each))[::-1] for each in (train, asked))
    return float(s_train[0] / (s_train[0] + s_eval[0]))


def _root(given: Arrays, part: int, mix: float | None, damping: float) -> np.ndarray:
    spans = given.spans()
    train, asked = _moments(given.rows[part].gradients, spans), _moments(given.queries[part].gradients, spans)
    if mix is None:
        enough = len(given.queries[part].gradients) >= max(at.stop - at.start for at in spans)
        mix = _mix(train, asked) if enough else 0.0
    mixed = mix * asked + (1 - mix) * train
    whole = np.zeros_like(mixed)
    for at in spans:
        block = mixed[at, at] + damping * np.trace(mixed[at, at]) / (at.stop - at.start) * np.eye(at.stop - at.start)
        values, vectors = np.linalg.eigh(block)
        whole[at, at] = vectors @ np.diag(values**-0.5) @ vectors.T
    return whole


def _wanted(given: Arrays, mix: float | None, damping: float = 0.1) -> np.ndarray:
    total = np.zeros((len(given.queries[0].gradients), ROWS))
    for part, weight in enumerate(WEIGHTS):
        root = _root(given, part, mix, damping)
        x, q = (side.gradients @ root for side in (given.rows[part], given.queries[part]))
        x, q = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (x, q))
        total += weight / sum(WEIGHTS) * q @ x.T
    return total


@pytest.mark.parametrize("queries", [3, 8])
@pytest.mark.parametrize("mix", [None, 0.0, 0.9, 1.0])
def test_it_is_the_papers_formula(mix: float | None, queries: int) -> None:
    given = arrays(0, queries=queries)
    check("trackstar", given, _wanted(given, mix), mix=mix, tolerance=1e-5)


def test_with_identity_curvature_and_no_second_moments_it_is_the_gradient_cosine() -> None:
    rng = np.random.default_rng(0)
    # Orthonormal in every layer: the mean of their outer products is 1.
    rows = np.linalg.qr(rng.standard_normal((32, DIMENSIONS)))[0] * np.sqrt(32)
    queries = rng.standard_normal((QUERIES, DIMENSIONS))
    given = of_gradients([rows], [queries])
    same = scorer("gradient-cosine", given)
    found = scorer("trackstar", given, mix=0.0, second_moments=False)
    everything = np.arange(32)
    for query in range(QUERIES):
        one, other = (each.explain(query, everything).scores(everything) for each in (found, same))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_mix_is_where_the_spectra_of_all_layers_cross() -> None:
    rng = np.random.default_rng(1)
    spans = (LayerSpan("a", 0, 100), LayerSpan("b", 100, 200))
    train, asked = (torch.tensor(rng.standard_normal((500, 200)) * np.linspace(4, s, 200)) for s in (0.1, 1.0))
    both = [eigen(moments_of(each, spans)) for each in (train, asked)]
    mix = mix_of(*both)
    one, other = (np.sort(np.concatenate([v.numpy() for v in each.values]))[::-1] for each in both)
    assert round(200 * 1000 / 65_536) == 3
    np.testing.assert_allclose((1 - mix) * one[2], mix * other[2])


def test_a_row_asked_with_a_small_change_finds_itself_also_when_it_is_asked_alone() -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((400, DIMENSIONS))
    given = of_gradients([rows], [rows[7:8] + 0.2 * rng.standard_normal((1, DIMENSIONS))])
    found = scorer("trackstar", given).explain(0, np.arange(400)).scores(np.arange(400))
    assert found.argmax() == 7 and 0.9 < found[7] <= 1
    mixed = scorer("trackstar", given, mix=0.9).explain(0, np.arange(400)).scores(np.arange(400))
    assert mixed[7] < found[7] - 0.05  # what is damped is the query itself


def test_what_queries_share_counts_less_with_the_mix_than_without() -> None:
    rng = np.random.default_rng(4)
    rows, queries = rng.standard_normal((200, 6)), rng.standard_normal((50, 6))
    queries[:, 0] += 10  # a template
    given = of_gradients([rows], [queries], widths=(6,))
    template = np.zeros((1, 6))
    template[0, 0] = 1
    given.rows[0].gradients[7] = template

    def score(mix: float | None) -> float:
        seven = np.array([7])
        return float(scorer("trackstar", given, mix=mix).explain(0, seven).scores(seven)[0])

    assert score(0.0) > score(None) > score(0.9)
    assert score(0.0) > 0.95 and score(0.9) < 0.6


def test_its_words_are_shares_of_the_whitened_cosine() -> None:
    given = arrays(5)
    roots = [_root(given, part, None, 0.1) for part in range(2)]

    def share(part: int, q: np.ndarray, x: np.ndarray, query: int, row: int) -> float:
        ours, theirs = given.queries[part].gradients[query], given.rows[part].gradients[row]
        lengths = np.linalg.norm(ours @ roots[part]) * np.linalg.norm(theirs @ roots[part])
        return float(WEIGHTS[part] / sum(WEIGHTS) * (q @ roots[part]) @ (x @ roots[part]) / lengths)

    pair_values(given, scorer("trackstar", given), share)


def test_it_reads_gradients_over_second_moments_unless_told_not_to() -> None:
    question, method = Asked(arrays(0)), get_method("trackstar")
    for more in ({}, {"second_moments": False}):
        method.prepare(question, method.make_options(**more))  # type: ignore[arg-type]
    assert [each["scale"] for each in question.asked] == ["second-moments", "none"]


@pytest.mark.parametrize("wrong", [{"mix": 1.5}, {"damping": -0.1}, {"curvature_rows": 0}])
def test_options_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        get_method("trackstar").make_options(**wrong)
