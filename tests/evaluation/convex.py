"""A convex world: logistic regression that is really trained again, and its exact influence function.

Its one optimum makes retraining free of noise, so that influence is known to foretell it well: the metrics must say so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logits))


@dataclass(frozen=True)
class Logistic:
    inputs: np.ndarray
    labels: np.ndarray
    """0 or 1."""
    asked: np.ndarray
    wanted: np.ndarray
    decay: float = 1.0

    @classmethod
    def drawn(
        cls, rows: int = 120, queries: int = 12, width: int = 5, *, flips: float = 0.1, seed: int = 0
    ) -> Logistic:
        generator = np.random.default_rng(seed)
        truth = 2.0 * generator.normal(size=width)
        inputs, asked = generator.normal(size=(rows, width)), generator.normal(size=(queries, width))
        labels, wanted = (inputs @ truth > 0).astype(float), (asked @ truth > 0).astype(float)
        flipped = generator.permutation(rows)[: round(flips * rows)]
        labels[flipped] = 1 - labels[flipped]
        return cls(inputs, labels, asked, wanted)

    def train(self, rows: np.ndarray) -> np.ndarray:
        """The weights at the optimum of summed cross entropy + decay |w|^2 / 2, by Newton's method."""
        x, y = self.inputs[rows], self.labels[rows]
        weights = np.zeros(x.shape[1])
        for _ in range(30):
            p = _sigmoid(x @ weights)
            gradient = x.T @ (p - y) + self.decay * weights
            weights -= np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + self.decay * np.eye(len(weights)), gradient)
        return weights

    def margins(self, rows: np.ndarray) -> np.ndarray:
        """log(p / (1 - p)) of each query's label when trained on `rows` [queries]."""
        return (2 * self.wanted - 1) * (self.asked @ self.train(rows))

    def losses(self, rows: np.ndarray) -> np.ndarray:
        return np.logaddexp(0, -self.margins(rows))

    def influence(self) -> np.ndarray:
        """score(q, i) = g_q H^-1 g_i: how much the loss of q rises, to first order, when row i goes [queries, rows]."""
        weights = self.train(np.arange(len(self.inputs)))
        p = _sigmoid(self.inputs @ weights)
        hessian = (self.inputs * (p * (1 - p))[:, None]).T @ self.inputs + self.decay * np.eye(len(weights))
        rows = (p - self.labels)[:, None] * self.inputs
        queries = (_sigmoid(self.asked @ weights) - self.wanted)[:, None] * self.asked
        return queries @ np.linalg.solve(hessian, rows.T)
