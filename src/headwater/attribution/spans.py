"""A part of a completion: only the loss of its tokens is explained, given all that stands before them.

What stands after them changes nothing in a model that reads from left to right, so the scores of a completion's parts
add up to those of the whole (of the loss that sums over tokens), the end token aside, which belongs to no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headwater.errors import DataError, UsageError
from headwater.runs import Encoding, Example
from headwater.runs.task import NO_TARGET

Span = tuple[int, int]
Spans = Sequence[Span | None] | None
"""Of each query the characters (from, to) of its completion, of a plain text of the text; None: all of it."""


def spans_of(spans: Spans, count: int, start: int, many: int) -> Spans:
    """Return the spans of `many` of `count` queries, from `start` on. Raises UsageError: not one a query."""
    if spans is not None and len(spans) != count:
        raise UsageError(f"{count} queries but {len(spans)} spans: give one a query, or None for all of it.")
    return None if spans is None else spans[start : start + many]


def completion_of(shown: Example) -> str:
    """Return what a query's span counts the characters of."""
    return shown.text_pair if shown.text_pair is not None else str(shown.text)


def within(encoding: Encoding, shown: Example, span: Span, number: int) -> Encoding:
    """Keep the targets that reach into `span`; `number` is the query's, from 0. Raises DataError, UsageError."""
    if encoding.targets is None or encoding.decoder_input_ids is not None:
        raise UsageError("a part of a completion can be explained of causal language models alone.")
    assert encoding.offsets is not None and encoding.parts is not None
    start, end = span
    length, part = len(completion_of(shown)), 0 if shown.text_pair is None else 1
    if not 0 <= start < end <= length:
        what = f"the span from {start} to {end} is not in the completion, which has {length} characters."
        raise DataError.at("the queries", what, row=number + 1)
    kept = [
        target if there == part and first < end and last > start else NO_TARGET
        for target, there, (first, last) in zip(encoding.targets, encoding.parts, encoding.offsets, strict=True)
    ]
    if all(target == NO_TARGET for target in kept[1:]):  # the first token of all is never predicted
        what = f"no token of the characters from {start} to {end} is predicted: it was cut, or begins the text."
        raise DataError.at("the queries", what, row=number + 1)
    return replace(encoding, targets=kept)
