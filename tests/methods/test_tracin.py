"""TracIn is a weighted sum of dot products, and its presets ask for their layers."""

import numpy as np
import pytest

from headwater.methods import get_method
from methods.layer_parts import QUERIES, ROWS, WEIGHTS, Asked, arrays, check, pair_values, scorer


def test_tracin_is_the_weighted_sum_over_checkpoints_of_dot_products() -> None:
    given = arrays(0)
    wanted = np.zeros((QUERIES, ROWS))
    for weight, rows, queries in zip(WEIGHTS, given.rows, given.queries, strict=True):
        for q in range(QUERIES):
            for x in range(ROWS):
                wanted[q, x] += weight * np.dot(queries.gradients[q], rows.gradients[x])
    check("tracin", given, wanted)


def test_its_words_are_the_weighted_dot_products_of_places() -> None:
    given = arrays(1)
    pair_values(given, scorer("tracin", given), lambda part, q, x, *_: WEIGHTS[part] * q @ x)


def test_a_row_that_pushed_as_the_query_did_is_a_proponent() -> None:
    given = arrays(2)
    for queries, rows in zip(given.queries, given.rows, strict=True):
        rows.places[0], rows.rests[0] = queries.places[0], queries.rests[0]
        rows.__post_init__()
    assert scorer("tracin", given).explain(0, np.array([0])).scores(np.array([0]))[0] > 0


@pytest.mark.parametrize(
    ("name", "layers"),
    [("tracin", None), ("tracin-last", "last"), ("tracin-second", "second-to-last"), ("tracin-all", "all")],
)
def test_presets_score_over_their_own_layers(name: str, layers: str | None) -> None:
    method = get_method(name)
    question = Asked(arrays(0))
    method.prepare(question, method.make_options())  # type: ignore[arg-type]
    method.prepare(question, method.make_options(layers="quarter:1", checkpoints=("a",), second_moments=True))  # type: ignore[arg-type]
    assert question.asked == [
        {"checkpoints": None, "layers": layers, "second_moments": False},
        {"checkpoints": ("a",), "layers": "quarter:1", "second_moments": True},
    ]
    assert layers is None or method.layers == layers
