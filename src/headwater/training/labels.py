"""From a corpus's labels to the model's classes: an order that is told, never guessed in silence."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from headwater.errors import DataError
from headwater.runs.corpus import Corpus

log = logging.getLogger("headwater.training")


def label_classes(corpus: Corpus, order: Sequence[str] | None = None) -> dict[str, int]:
    """Return label2id for training on `corpus`; it is logged, and stands in the model's config.

    The order is `order` if given; else whole numbers ascending, or names sorted.

    Raises DataError where the corpus has no labels, fewer than two, or one that `order` lacks.
    """
    there = corpus.label_names()
    if not there:
        raise DataError(f"{corpus.name}: has no labels to train on. Name their column: Columns(label=...).")
    if order is not None:
        _check_order(corpus, [str(label) for label in there], order)
    names = [str(label) for label in there] if order is None else list(order)
    if len(names) < 2:
        raise DataError(f"{corpus.name}: every row is labelled {names[0]!r}. Training needs two labels or more.")
    log.info("labels: %s", ", ".join(f"{number} = {name}" for number, name in enumerate(names)))
    return {name: number for number, name in enumerate(names)}


def _check_order(corpus: Corpus, there: Sequence[str], order: Sequence[str]) -> None:
    if len(set(order)) != len(order):
        raise DataError(f"labels: one of {', '.join(order)} is named twice.")
    missing = [label for label in there if label not in order]
    if missing:
        raise DataError(
            f"{corpus.name}: label {missing[0]!r} is not among the labels asked for ({', '.join(order)}). "
            f"The corpus has {', '.join(there)}."
        )
