"""Questions made of arrays and of a few texts: representations of any values, real corpora, real tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig

import headwater as hw
from headwater.methods import RepresentationBlock, RepresentationPart, Scorer
from headwater.runs import Corpus, Example
from headwater.store import StoredCheckpoint


def check_scorer(scorer: Scorer, expected: np.ndarray, *, rtol: float = 1e-6, atol: float = 1e-12) -> np.ndarray:
    """Scores and explanations equal a float64 reference [queries, rows]; the stated bound holds. Returns the scores."""
    scores = np.zeros(expected.shape, dtype=np.float32)
    scorer.score(scores)
    bound = scorer.rounding()
    generator = np.random.default_rng(0)
    for query, truth in enumerate(expected):
        rows = generator.permutation(len(truth))
        found = scorer.explain(query, rows)
        exact = found.scores(np.arange(len(truth)))
        np.testing.assert_allclose(exact, truth, rtol=1e-9, atol=atol)
        np.testing.assert_allclose(scores[query], truth, rtol=rtol, atol=atol + bound[query])
        assert np.abs(scores[query] - exact).max() <= bound[query]
        assert bound[query] <= 1e-4 * np.abs(expected).max() + 1e-30
        assert (found.places == -1).all() and (found.train_tokens == -1).all()
        one = scorer.explain(query, rows[:1]).values
        assert one[0] == found.values[0]  # to the last bit, whatever else is asked
    return scores


@dataclass
class Side:
    """Float64 arrays of one side of one checkpoint: features [n, d], logits and errors [n, c] (None: no classes)."""

    features: np.ndarray
    logits: np.ndarray | None
    errors: np.ndarray | None

    def block(self, start: int = 0, stop: int | None = None) -> RepresentationBlock:
        def cut(values: np.ndarray | None) -> Tensor | None:
            return None if values is None else torch.from_numpy(values[start:stop]).float()

        features = cut(self.features)
        assert features is not None
        return RepresentationBlock(start, features, cut(self.logits), cut(self.errors), torch.zeros(len(features)))


def softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def side(rng: np.random.Generator, rows: int, width: int, classes: int) -> tuple[Side, np.ndarray]:
    """Random numbers that float32 holds exactly, and the classes [n] of the errors."""
    features = np.float32(rng.standard_normal((rows, width))).astype(np.float64)
    logits = np.float32(rng.standard_normal((rows, classes))).astype(np.float64)
    targets = rng.integers(0, classes, rows)
    errors = np.float32(softmax(logits) - np.eye(classes)[targets]).astype(np.float64)
    return Side(features, logits, errors), targets


def part(rows: Side, queries: Side, *, weight: float = 1.0, run: int = 0, bias: bool = True, step: int = 7) -> Any:
    """A part whose rows come in blocks of `step`."""

    def blocks() -> Iterator[RepresentationBlock]:
        for start in range(0, len(rows.features), step):
            yield rows.block(start, start + step)

    checkpoint = StoredCheckpoint("checkpoint-1", "0" * 16, weight)
    return RepresentationPart(checkpoint, weight, run, len(rows.features), bias, queries.block(), blocks)


@dataclass
class Asked:
    """A question (see `headwater.methods.Question`), of what its test needs."""

    targets: Sequence[int]
    run: Any
    parts: Sequence[RepresentationPart] = ()
    corpus: Any = None
    queries: Sequence[Example] = ()

    def representations(self, checkpoints: Sequence[str] | None) -> Sequence[RepresentationPart]:
        return self.parts


def array_question(
    parts: Sequence[RepresentationPart],
    targets: Sequence[int],
    row_targets: Sequence[int],
    classes: int,
    *,
    task: Any = None,
    **texts: Any,
) -> Asked:
    names = {number: f"class-{number}" for number in range(classes)}
    config = BertConfig(id2label=names, label2id={name: number for number, name in names.items()})
    run = SimpleNamespace(
        task=task or hw.Classification(), checkpoints=[SimpleNamespace(config=config)], targets=list(row_targets)
    )
    return Asked(list(targets), run, parts, **texts)


def text_question(
    rows: Sequence[dict[str, Any]],
    queries: Sequence[dict[str, Any]],
    label_number: Callable[[Any], int],
    *,
    task: Any = None,
    columns: Any = None,
    parts: Sequence[RepresentationPart] = (),
) -> Asked:
    columns = columns or hw.Columns()
    corpus = Corpus.read(list(rows), columns, name="rows")
    asked = Corpus.read(list(queries), columns, name="queries")
    return array_question(
        parts,
        [label_number(example.label) for example in asked],
        [label_number(example.label) for example in corpus],
        2,
        task=task,
        corpus=corpus,
        queries=list(asked),
    )
