"""Asking: from texts and labels to what they push at every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from transformers import PreTrainedModel

from headwater.attribution.passes import Models
from headwater.errors import UsageError
from headwater.gradients import PlaceGradients, encoded_batches, place_gradients
from headwater.runs import Columns, Corpus, Encoding, Example, Run

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
    """None where a language model was given its completion, and was not asked for its own."""
    probability: float
    """Of the predicted label; of a language model: exp(-mean loss of a token) of the completion that is explained."""
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


def settle(
    runs: Sequence[Run], models: Sequence[Models], queries: Corpus, labels: Labels
) -> tuple[list[Query], list[int]]:
    """Encode queries, predict them with the last checkpoint (of several runs: their mean), settle their labels.

    Returns the queries and their targets. `labels` None: the predicted labels. Raises DataError for unknown labels,
    UsageError when there are not as many labels as queries.
    """
    examples = queries.rows(0, len(queries))
    first = runs[0]
    encodings = first.task.encode(first.tokenizer, examples, offsets=True)
    config = first.checkpoints[-1].config
    probabilities = torch.zeros(len(examples), len(first.label2id), dtype=torch.float64)
    for run, kept in zip(runs, models, strict=True):
        logits = _predict(run, kept.load(run.checkpoints[-1]), encodings)
        probabilities += torch.softmax(logits.double(), dim=1) / len(runs)
    predicted = probabilities.argmax(dim=1).tolist()
    targets = predicted
    if labels is not None:
        if len(labels) != len(examples):
            raise UsageError(f"{len(examples)} queries but {len(labels)} labels: give one label a query.")
        targets = first.task.targets(labels, config, where=queries.name)
    names = first.id2label
    made = [
        Query(
            example=example,
            encoding=encoding,
            label=names[target],
            given=labels is not None,
            predicted=names[best],
            probability=float(row[best]),
            loss=-math.log(max(float(row[target]), 1e-300)),
        )
        for example, encoding, target, best, row in zip(
            examples, encodings, targets, predicted, probabilities, strict=True
        )
    ]
    return made, targets


def query_gradients(
    run: Run, model: PreTrainedModel, encodings: Sequence[Encoding], targets: Sequence[int]
) -> PlaceGradients:
    """What each query pushes at one checkpoint, place by place, sorted by query and place. On the CPU."""
    found = list(place_gradients(model, encoded_batches(run, encodings, targets), run.task.losses))
    rows = torch.cat([part.rows for part in found]).cpu()
    places = torch.cat([part.places for part in found]).cpu()
    order = torch.from_numpy(np.lexsort((places.numpy(), rows.numpy())))
    return PlaceGradients(
        rows[order],
        places[order],
        torch.cat([part.tokens for part in found]).cpu()[order],
        torch.cat([part.gradients for part in found]).cpu()[order],
    )


def _predict(run: Run, model: PreTrainedModel, encodings: Sequence[Encoding]) -> torch.Tensor:
    """Logits [queries, classes] on the CPU, in the queries' order."""
    logits = torch.zeros(len(encodings), len(run.label2id))
    device = str(next(model.parameters()).device)
    with torch.no_grad():
        for batch in encoded_batches(run, encodings, [0] * len(encodings)):
            logits[batch.rows] = run.task.predict(model, batch.to(device).inputs).cpu()
    return logits
