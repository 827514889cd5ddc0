"""Asking: from texts and labels to what they push at every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float64
from transformers import PreTrainedModel

from headwater.attribution.passes import Models
from headwater.errors import UsageError
from headwater.gradients import PlaceGradients, encoded_batches, place_gradients
from headwater.methods import Method
from headwater.progress import stage
from headwater.runs import Columns, Corpus, Encoding, Example, Run

_LEAST_BLOCK, _MOST_BLOCK = 128, 4096  # queries that are asked together; TrackStar looks at what they share
_CELLS = 1 << 26  # scores that are held in memory at a time: 256 MiB

Queries: TypeAlias = str | Sequence[str] | Sequence[tuple[str, str]] | Corpus | Any
Labels: TypeAlias = Sequence[str | int | None] | None


@dataclass(frozen=True)
class Query:
    """A text whose prediction is explained, and what the run's last checkpoint says of it."""

    example: Example
    encoding: Encoding
    label: str
    """The label whose loss is differentiated: given, or else the predicted one. Of a language model: the completion."""
    given: bool
    predicted: str | None
    """None where nobody asked for it: of a language model that was given its completion, or where only scores count."""
    probability: float
    """Of the predicted label; of a language model: exp(-mean loss of a token) of the completion that is explained. NaN
    where nobody asked for it."""
    loss: float
    """Of `label`, at the last checkpoint."""


def read_queries(queries: Queries, *, pairs: bool) -> Corpus:
    """Make a corpus of whatever the user asks with. Raises DataError (row, column), UsageError."""
    if isinstance(queries, Corpus):
        return queries
    if isinstance(queries, str):
        queries = [queries]
    columns = Columns(text="text", text_pair="text_pair" if pairs else None, label=None)
    if isinstance(queries, Sequence) and not isinstance(queries, bytes):
        if not queries:
            raise UsageError("no queries: give at least one text.")
        if all(isinstance(query, str) for query in queries) and not pairs:
            return Corpus.read([{"text": query} for query in queries], columns, name="queries")
        if all(isinstance(query, tuple | list) and len(query) == 2 for query in queries) and pairs:
            rows = [{"text": query[0], "text_pair": query[1]} for query in queries]
            return Corpus.read(rows, columns, name="queries")
        shape = "pairs of texts: [(text, second text), ...]" if pairs else "texts: [text, ...]"
        raise UsageError(f"this run's queries are {shape}, or a Corpus.")
    return Corpus.read(queries, columns, name="queries")


def query_blocks(queries: Corpus, labels: Labels, method: Method, rows: int) -> Iterator[tuple[int, Corpus, Labels]]:
    """Cut queries and labels into blocks, so that memory does not grow with their number."""
    if labels is not None and len(labels) != len(queries):
        raise UsageError(f"{len(queries)} queries but {len(labels)} labels: give one label a query.")
    most = block_size(method, rows)
    if len(queries) <= most:
        yield 0, queries, labels
        return
    for start in range(0, len(queries), most):
        stop = min(start + most, len(queries))
        yield start, queries.take(range(start, stop)), None if labels is None else labels[start:stop]


def block_size(method: Method, rows: int) -> int:
    """Return how many queries are asked together of an index of so many rows."""
    return _LEAST_BLOCK if method.need == "tokens" else min(max(_CELLS // rows, _LEAST_BLOCK), _MOST_BLOCK)


def settle(
    runs: Sequence[Run], models: Sequence[Models], queries: Corpus, labels: Labels, *, judge: bool = True
) -> tuple[list[Query], list[int]]:
    """Encode queries, predict them with the last checkpoint (of several runs: their mean), settle their labels.

    Returns the queries and their targets. `labels` None: the predicted labels. Without `judge`, which saves a pass,
    given labels are taken as they are, and nothing is predicted. Raises DataError for unknown labels, UsageError when
    there are not as many labels as queries.
    """
    examples = queries.rows(0, len(queries))
    first = runs[0]
    encodings = first.task.encode(first.tokenizer, examples, offsets=True)
    config = first.checkpoints[-1].config
    probabilities = _probabilities(runs, models, encodings) if judge or labels is None else None
    predicted: list[int] = [] if probabilities is None else probabilities.argmax(dim=1).tolist()
    targets = predicted
    if labels is not None:
        if len(labels) != len(examples):
            raise UsageError(f"{len(examples)} queries but {len(labels)} labels: give one label a query.")
        targets = first.task.targets(labels, config, where=queries.name)
    names = first.id2label
    made = [
        Query(example, encoding, names[target], labels is not None, None, math.nan, math.nan)
        for example, encoding, target in zip(examples, encodings, targets, strict=True)
    ]
    if probabilities is None:
        return made, targets
    return [
        replace(
            query,
            predicted=names[best],
            probability=float(row[best]),
            loss=-math.log(max(float(row[target]), 1e-300)),
        )
        for query, target, best, row in zip(made, targets, predicted, probabilities, strict=True)
    ], targets


def _probabilities(
    runs: Sequence[Run], models: Sequence[Models], encodings: Sequence[Encoding]
) -> Float64[torch.Tensor, "n c"]:
    """What the runs' last checkpoints say, on average."""
    total = torch.zeros(len(encodings), len(runs[0].label2id), dtype=torch.float64)
    for run, kept in zip(runs, models, strict=True):
        model = kept.load(run.checkpoints[-1])
        stage(f"asking the model what it says of {_texts(len(encodings))}")
        logits = _predict(run, model, encodings)
        total += torch.softmax(logits.double(), dim=1) / len(runs)
    return total


def query_gradients(
    run: Run,
    model: PreTrainedModel,
    encodings: Sequence[Encoding],
    targets: Sequence[int],
    *,
    at: str,
    what: str | None = None,
) -> PlaceGradients:
    """What each query pushes at the checkpoint called `at`, place by place, sorted by query and place. On the CPU.

    `what` names them to who listens.
    """
    found, done = [], 0
    pass_through(len(encodings), at, what=what)
    for part in place_gradients(model, encoded_batches(run, encodings, targets), run.task.losses):
        found.append(part)
        done += int(torch.unique(part.rows).numel())
        pass_through(len(encodings), at, done, what)
    rows = torch.cat([part.rows for part in found]).cpu()
    places = torch.cat([part.places for part in found]).cpu()
    order = torch.from_numpy(np.lexsort((places.numpy(), rows.numpy())))
    return PlaceGradients(
        rows[order],
        places[order],
        torch.cat([part.tokens for part in found]).cpu()[order],
        torch.cat([part.gradients for part in found]).cpu()[order],
    )


def pass_through(texts: int, at: str, done: int = 0, what: str | None = None) -> None:
    """Tell who listens that the queries are passed through a checkpoint, so many of them by now."""
    stage(f"passing {what or _texts(texts)} through {at}", done, texts if texts > 1 else None, "texts")


def _texts(count: int) -> str:
    return "the text" if count == 1 else f"{count:,} texts"


def _predict(run: Run, model: PreTrainedModel, encodings: Sequence[Encoding]) -> torch.Tensor:
    """Logits [queries, classes] on the CPU, in the queries' order."""
    logits = torch.zeros(len(encodings), len(run.label2id))
    device = str(next(model.parameters()).device)
    with torch.no_grad():
        for batch in encoded_batches(run, encodings, [0] * len(encodings)):
            logits[batch.rows] = run.task.predict(model, batch.to(device).inputs).cpu()
    return logits
