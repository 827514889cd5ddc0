"""Neighbours and hubs against scikit-learn's."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from headwater.attribution.neighbours import hub_counts, nearest_rows, same_label


def test_neighbours_same_labels_and_hubs_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(700, 6)).astype(np.float32)
    targets = generator.integers(0, 3, 700)
    near, cosines = nearest_rows(features, np.arange(700), k=10)
    finder = NearestNeighbors(n_neighbors=11, metric="cosine", algorithm="brute").fit(features)
    distances, expected = finder.kneighbors(features)
    np.testing.assert_allclose(cosines, 1 - distances[:, 1:], atol=1e-5)
    assert (near == expected[:, 1:]).mean() > 0.999
    np.testing.assert_allclose(
        same_label(near, targets), [(targets[n] == t).mean() for n, t in zip(near, targets, strict=True)]
    )
    counts = [sum(row in neighbours for neighbours in near.tolist()) for row in range(20)]
    assert hub_counts(near)[:20].tolist() == counts and hub_counts(near).sum() == 7000


def test_a_single_row_has_no_neighbours() -> None:
    near, _ = nearest_rows(np.ones((1, 4), dtype=np.float32), np.array([0]), k=10)
    assert near.shape == (1, 0) and same_label(near, np.array([1])).tolist() == [1.0]
    assert hub_counts(near).tolist() == [0]
