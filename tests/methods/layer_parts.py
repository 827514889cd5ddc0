"""Layer gradients made of arrays: two checkpoints, three layers, every text a few places and a pooled rest."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from headwater.methods import LayerPart, LayerSpan, Method, PlaceVectors, Scorer, get_method
from headwater.runs import Classification
from headwater.store import StoredCheckpoint

WIDTHS = (4, 6, 4)
WEIGHTS = (0.3, 0.2)
ROWS, QUERIES, PLACES = 24, 3, 4


@dataclass
class Side:
    """Texts of one checkpoint: their places' vectors [n, t, k], rests [n, k], losses [n]; all float64."""

    places: np.ndarray
    rests: np.ndarray
    losses: np.ndarray
    gradients: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        # Sums of float32 numbers with few digits: exact, so that float64 references see what is stored.
        self.gradients = self.places.sum(axis=1) + self.rests


@dataclass
class Arrays:
    """What a question about layer gradients finds, as float64 arrays, one of each for every checkpoint."""

    rows: list[Side]
    queries: list[Side]
    weights: Sequence[float] = WEIGHTS
    widths: Sequence[int] = WIDTHS
    runs: Sequence[int] = (0, 0)

    def spans(self) -> list[slice]:
        ends = np.cumsum([0, *self.widths])
        return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]


def side(rng: np.random.Generator, texts: int, width: int, scale: float = 1.0) -> Side:
    """Random gradients of few binary digits."""

    def drawn(*shape: int) -> np.ndarray:
        return np.round(rng.standard_normal(shape) * 64) / 64 * scale

    losses = np.float32(rng.uniform(0.05, 3.0, texts)).astype(np.float64)
    return Side(drawn(texts, PLACES, width), drawn(texts, width), losses)


def arrays(
    seed: int, *, rows: int = ROWS, queries: int = QUERIES, widths: Sequence[int] = WIDTHS, scale: float = 1.0
) -> Arrays:
    rng = np.random.default_rng(seed)
    parts = [(side(rng, rows, sum(widths), scale), side(rng, queries, sum(widths), scale)) for _ in WEIGHTS]
    return Arrays([one for one, _ in parts], [other for _, other in parts], widths=widths)


def of_gradients(rows: Sequence[np.ndarray], queries: Sequence[np.ndarray], **more: Any) -> Arrays:
    """Arrays of given gradients, all of them rest, one pair a checkpoint."""

    def plain(gradients: np.ndarray) -> Side:
        empty = np.zeros((len(gradients), 0, gradients.shape[1]))
        return Side(empty, np.asarray(gradients, dtype=np.float64), np.ones(len(gradients)))

    made = Arrays([plain(one) for one in rows], [plain(one) for one in queries], **more)
    made.weights, made.runs = made.weights[: len(rows)], made.runs[: len(rows)]
    return made


def layer_part(given: Arrays, at: int, block: int, kept: dict[Any, Any] | None = None) -> LayerPart:
    """One checkpoint as a LayerPart, read in blocks of so many rows."""
    rows, queries = given.rows[at], given.queries[at]
    stored = torch.tensor(rows.gradients, dtype=torch.float32)

    def blocks():
        for start in range(0, len(stored), block):
            yield start, stored[start : start + block]

    def places(of: Side, number: int, first: int) -> PlaceVectors:
        count = of.places.shape[1]
        return PlaceVectors(
            first + np.arange(count, dtype=np.int64),
            np.arange(count, dtype=np.int64),
            torch.tensor(of.places[number], dtype=torch.float32),
            torch.tensor(of.rests[number], dtype=torch.float32),
        )

    return LayerPart(
        checkpoint=StoredCheckpoint(f"checkpoint-{at}", f"f{at}", given.weights[at]),
        weight=given.weights[at],
        run=given.runs[at],
        layers=tuple(LayerSpan(f"layer.{i}", s.start, s.stop) for i, s in enumerate(given.spans())),
        queries=torch.tensor(queries.gradients, dtype=torch.float32),
        query_losses=torch.tensor(queries.losses, dtype=torch.float32),
        losses=torch.tensor(rows.losses, dtype=torch.float32),
        blocks=blocks,
        take=lambda wanted: stored[torch.from_numpy(wanted)],
        query_places=lambda number: places(queries, number, 100),
        row_places=lambda wanted: [places(rows, int(row), 200) for row in wanted],
        kept={} if kept is None else kept,
    )


@dataclass
class Asked:
    """A question about arrays; it keeps what it was asked."""

    given: Arrays
    block: int = 7
    task: Any = field(default_factory=Classification)
    kept: list[dict[Any, Any]] = field(default_factory=lambda: [{} for _ in WEIGHTS])
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def run(self) -> Any:
        return SimpleNamespace(task=self.task)

    def layers(self, checkpoints: Sequence[str] | None, **more: Any) -> list[LayerPart]:
        self.asked.append({"checkpoints": checkpoints, **more})
        return [layer_part(self.given, at, self.block, self.kept[at]) for at in range(len(self.given.rows))]


def scorer(name: str, given: Arrays, *, block: int = 7, task: Any = None, **options: Any) -> Scorer:
    method: Method = get_method(name)
    question = Asked(given, block, task or Classification())
    return method.prepare(question, method.make_options(**options))  # type: ignore[arg-type]


def exact(made: Scorer, given: Arrays) -> np.ndarray:
    """All scores as `explain` gives them: float64 [queries, rows]."""
    rows = np.arange(len(given.rows[0].gradients))
    return np.stack([made.explain(query, rows).scores(rows) for query in range(len(given.queries[0].gradients))])


def scores(made: Scorer, given: Arrays) -> np.ndarray:
    """All scores in float32."""
    out = np.zeros((len(given.queries[0].gradients), len(given.rows[0].gradients)), dtype=np.float32)
    made.score(out)
    return out


def check(name: str, given: Arrays, wanted: np.ndarray, *, tolerance: float = 1e-9, **options: Any) -> None:
    """The scores in float64 are those wanted; those in float32 lie within the bound; blocks make no difference."""
    made = scorer(name, given, **options)
    found = exact(made, given)
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())
    fast = scores(made, given)
    assert (np.abs(fast - found) <= made.rounding()[:, None]).all()
    for block in (1, 5, 1000):
        other = scorer(name, given, block=block, **options)
        np.testing.assert_allclose(exact(other, given), found, rtol=1e-5, atol=1e-6 * np.abs(found).max())
        np.testing.assert_allclose(scores(other, given), fast, rtol=1e-5, atol=1e-5 * np.abs(found).max())


def pair_values(
    given: Arrays, made: Scorer, bilinear: Callable[[int, np.ndarray, np.ndarray, int, int], np.ndarray]
) -> None:
    """Each pair of places has the value that `bilinear(part, q_t, x_s, query, row)` says, summed over parts."""
    for query in range(len(given.queries[0].gradients)):
        rows = np.array([5, 2], dtype=np.int64)
        found = made.explain(query, rows)
        near = 1e-6 * np.abs(found.values).max()
        for row in rows:
            for t in range(PLACES):
                for s in range(PLACES):
                    at = (found.rows == row) & (found.train_places == t) & (found.places == s)
                    wanted = sum(
                        bilinear(part, q.places[query, s], x.places[row, t], query, int(row))
                        for part, (q, x) in enumerate(zip(given.queries, given.rows, strict=True))
                    )
                    np.testing.assert_allclose(found.values[at].sum(), wanted, rtol=1e-5, atol=near)
                    assert set(found.train_tokens[at]) <= {200 + t} and set(found.query_tokens[at]) <= {100 + s}
