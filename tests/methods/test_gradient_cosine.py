"""The cosine of gradients, as numpy computes it pair by pair."""

import numpy as np

from methods.layer_parts import QUERIES, ROWS, WEIGHTS, arrays, check, pair_values, scorer


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def test_it_is_the_weighted_mean_over_checkpoints_of_cosines() -> None:
    given = arrays(0)
    wanted = np.zeros((QUERIES, ROWS))
    for weight, rows, queries in zip(WEIGHTS, given.rows, given.queries, strict=True):
        for q in range(QUERIES):
            for x in range(ROWS):
                wanted[q, x] += weight / sum(WEIGHTS) * _cosine(queries.gradients[q], rows.gradients[x])
    check("gradient-cosine", given, wanted, tolerance=1e-6)


def test_a_row_is_at_1_from_itself_and_at_minus_1_from_its_opposite() -> None:
    given = arrays(1)
    for rows, queries in zip(given.rows, given.queries, strict=True):
        rows.places[0], rows.rests[0] = 3 * queries.places[1], 3 * queries.rests[1]
        rows.places[1], rows.rests[1] = -queries.places[1], -queries.rests[1]
        rows.__post_init__()
    two = np.array([0, 1])
    found = scorer("gradient-cosine", given).explain(1, two).scores(two)
    np.testing.assert_allclose(found, [1, -1], rtol=1e-6)


def test_what_pushed_nothing_scores_0() -> None:
    given = arrays(2)
    for rows, queries in zip(given.rows, given.queries, strict=True):
        for of, number in ((rows, 4), (queries, 1)):
            of.places[number] = of.rests[number] = 0
            of.__post_init__()
    made = scorer("gradient-cosine", given)
    out = np.zeros((QUERIES, ROWS), dtype=np.float32)
    made.score(out)
    assert np.isfinite(out).all() and (out[:, 4] == 0).all() and (out[1] == 0).all() and (out != 0).any()
    assert np.isfinite(made.rounding()).all()


def test_its_words_are_shares_of_the_cosine() -> None:
    given = arrays(3)

    def share(part: int, q: np.ndarray, x: np.ndarray, query: int, row: int) -> float:
        ours, theirs = given.queries[part].gradients[query], given.rows[part].gradients[row]
        return float(WEIGHTS[part] / sum(WEIGHTS) * q @ x / np.linalg.norm(ours) / np.linalg.norm(theirs))

    pair_values(given, scorer("gradient-cosine", given), share)
