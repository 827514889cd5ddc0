"""Asking a language model: a query is a prompt, and its completion is what is explained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from headwater.attribution.passes import Models
from headwater.attribution.queries import Labels, Queries, Query
from headwater.attribution.spans import Spans, completion_of, within
from headwater.errors import UsageError
from headwater.gradients import encoded_batches
from headwater.progress import stage
from headwater.runs import Columns, Corpus, Encoding, Example, Reply, Run, text_task

NEW_TOKENS = 32
"""Tokens of a model's own continuation, at most, unless the caller says otherwise."""

_COLUMNS = Columns(text="text", label=None)


def read_prompts(queries: Queries, labels: Labels) -> tuple[Corpus, Labels]:
    """Make prompts, and the completions given with them, of whatever the user asks with.

    Texts, (prompt, completion) pairs, conversations (lists of turns), a Corpus, or what `Corpus.read` takes. Raises
    DataError (row, column), UsageError.
    """
    if isinstance(queries, Corpus):
        return queries, labels
    if isinstance(queries, str):
        queries = [queries]
    if not isinstance(queries, Sequence) or isinstance(queries, bytes):
        return Corpus.read(queries, _COLUMNS, name="queries"), labels
    if not queries:
        raise UsageError("no queries: give at least one text.")
    if _is_conversation(queries):
        queries = [queries]
    if all(isinstance(query, tuple) and len(query) == 2 and isinstance(query[1], str) for query in queries):
        if labels is not None:
            raise UsageError("these queries are (prompt, completion): leave labels out, or give prompts alone.")
        completions: list[Any] = [query[1] for query in queries]
        labels = completions
        queries = [query[0] for query in queries]
    if all(isinstance(query, str) or _is_conversation(query) for query in queries):
        return Corpus.read([{"text": query} for query in queries], _COLUMNS, name="queries"), labels
    if all(isinstance(query, Mapping) for query in queries):
        return Corpus.read(list(queries), _COLUMNS, name="queries"), labels
    raise UsageError(
        "queries of a language model are texts [prompt, ...], pairs [(prompt, completion), ...], conversations "
        "[[{'role': ..., 'content': ...}, ...], ...], or a Corpus."
    )


def settle_completions(
    runs: Sequence[Run],
    models: Sequence[Models],
    queries: Corpus,
    labels: Labels,
    most: int,
    *,
    judge: bool = True,
    spans: Spans = None,
) -> tuple[list[Query], list[int]]:
    """Settle what each query explains: the completion given, or else the greedy one of the first run's last checkpoint.

    An empty label means the whole text. Of either, `spans` may name a part. Loss and probability are those of the last
    checkpoint (of several runs: their mean); NaN, which saves a pass, without `judge`. Returns the queries and, for
    form's sake, a target for each. Raises DataError, UsageError.
    """
    run = runs[0]
    language = text_task(run.task)
    assert language is not None
    if most < 1:
        raise UsageError(f"max_new_tokens must be at least 1; it is {most}.")
    if labels is not None and len(labels) != len(queries):
        raise UsageError(f"{len(queries)} queries but {len(labels)} labels: give one label a query.")
    config = run.checkpoints[-1].config
    given = [None] * len(queries) if labels is None else list(labels)
    targets = run.task.targets(given, config, where=queries.name)
    examples = [replace(example, label=None) for example in queries.rows(0, len(queries))]
    model = models[0].load(run.checkpoints[-1])
    if None in given:
        stage(f"letting the model write on, {most} tokens at most")
    replies: list[Reply | None] = [
        language.reply(model, run.tokenizer, example, most) if label is None else None
        for example, label in zip(examples, given, strict=True)
    ]
    settled = [
        reply.example if reply else replace(example, label=label or None)
        for example, label, reply in zip(examples, given, replies, strict=True)
    ]
    encodings = _encoded(run, settled, replies)
    parts = [None] * len(settled) if spans is None else list(spans)
    for number, (example, span) in enumerate(zip(settled, parts, strict=True)):
        if span is not None:
            encodings[number] = within(encodings[number], run.task.shown(example), span, number)
    unknown = [math.nan] * len(encodings)
    losses, probabilities = _judged(runs, models, encodings) if judge else (unknown, unknown)
    made = []
    for example, encoding, reply, loss, probability, span in zip(
        settled, encodings, replies, losses, probabilities, parts, strict=True
    ):
        shown = run.task.shown(example)
        label = str(shown.text if shown.label is None else shown.label)
        label = label if span is None else completion_of(shown)[slice(*span)]
        predicted = label if reply else None
        made.append(Query(shown, encoding, label, reply is None, predicted, probability, loss))
    return made, targets


def _is_conversation(query: Any) -> bool:
    listed = isinstance(query, list) and bool(query)
    return listed and all(isinstance(turn, Mapping) and "role" in turn and "content" in turn for turn in query)


def _encoded(run: Run, examples: Sequence[Example], replies: Sequence[Reply | None]) -> list[Encoding]:
    """Encode what was given; a reply brings its very tokens with it."""
    asked = [example for example, reply in zip(examples, replies, strict=True) if reply is None]
    encoded = iter(run.task.encode(run.tokenizer, asked, offsets=True))
    return [next(encoded) if reply is None else reply.encoding for reply in replies]


@torch.no_grad()
def _judged(
    runs: Sequence[Run], models: Sequence[Models], encodings: Sequence[Encoding]
) -> tuple[list[float], list[float]]:
    """Each completion's loss, and exp(-mean loss of its tokens), by the last checkpoints."""
    losses = torch.zeros(len(encodings), dtype=torch.float64)
    probabilities = torch.zeros(len(encodings), dtype=torch.float64)
    for run, kept in zip(runs, models, strict=True):
        language = text_task(run.task)
        assert language is not None
        model = kept.load(run.checkpoints[-1])
        stage("asking the model how likely the completion is")
        device = str(next(model.parameters()).device)
        for batch in encoded_batches(run, encodings, [0] * len(encodings)):
            moved = batch.to(device)
            sums, counts = language.token_sums(model, moved.inputs)
            found = run.task.losses(model, moved.inputs, moved.targets)
            losses[batch.rows] += found.double().cpu() / len(runs)
            probabilities[batch.rows] += torch.exp(-sums.double() / counts).cpu() / len(runs)
    return losses.tolist(), probabilities.tolist()
