"""LESS: the weighted sum of cosines between plain queries and Adam's steps on the rows."""

import numpy as np

from headwater.methods import get_method
from methods.layer_parts import QUERIES, ROWS, WEIGHTS, Asked, arrays, check


def test_it_is_the_weighted_sum_over_checkpoints_of_cosines() -> None:
    given = arrays(0)
    wanted = np.zeros((QUERIES, ROWS))
    for weight, rows, queries in zip(WEIGHTS, given.rows, given.queries, strict=True):
        for q, asked in enumerate(queries.gradients):
            for x, step in enumerate(rows.gradients):
                wanted[q, x] += weight * (asked @ step) / np.sqrt((asked @ asked) * (step @ step))
    check("less", given, wanted, tolerance=1e-6)


def test_it_reads_steps_of_adam_and_leaves_the_queries_plain() -> None:
    question = Asked(arrays(0))
    method = get_method("less")
    method.prepare(question, method.make_options(layers="last"))  # type: ignore[arg-type]
    assert question.asked == [{"checkpoints": None, "layers": "last", "scale": "adam-update"}]
    assert method.scale == "adam-update"
