"""The cosine of representations, by a loop; the label plays no part; texts that have none score 0."""

import numpy as np

import headwater as hw
from headwater.methods.representation_cosine import RepresentationCosine, prepare
from methods.baselines import Side, array_question, check_scorer, part, side


def test_scores_are_cosines_of_the_last_checkpoint_of_each_run() -> None:
    rng = np.random.default_rng(1)
    made = [(side(rng, 25, 6, 2)[0], side(rng, 3, 6, 2)[0]) for _ in range(3)]
    parts = [part(*sides, run=run, weight=0.3) for run, sides in zip((0, 0, 1), made, strict=True)]
    expected = np.zeros((3, 25))
    for rows, queries in made[1:]:
        for q in range(3):
            for x in range(25):
                a, b = queries.features[q], rows.features[x]
                expected[q, x] += np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)) / 2
    question = array_question(parts, [0, 1, 0], [0] * 25, 2)
    scores = check_scorer(prepare(question, RepresentationCosine()), expected)
    assert np.abs(scores).max() <= 1 + 1e-6


def test_a_language_model_needs_no_classes_and_equal_rows_score_equal_to_the_bit() -> None:
    features = np.float32(np.random.default_rng(2).standard_normal((9, 33))).astype(np.float64)
    rows = Side(np.vstack([features, features[4], np.zeros(33), features[4]]), None, None)
    question = array_question(
        [part(rows, Side(features[4:6] * 2.0**-60, None, None), bias=False)], [0, 0], [0] * 12, 2, task=hw.CausalLM()
    )
    scorer = prepare(question, RepresentationCosine())
    values = scorer.explain(0, np.arange(12)).values
    assert values[4] == values[9] == values[11] and abs(values[4] - 1) < 1e-12 and values[10] == 0
    assert scorer.explain(0, np.array([11])).values[0] == values[4]
