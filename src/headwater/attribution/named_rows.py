"""The words between queries and rows that were chosen elsewhere: by an audit, by a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headwater.attribution.attributions import WordPair
from headwater.attribution.build import special_tokens
from headwater.attribution.completions import NEW_TOKENS
from headwater.attribution.explain import TokenNames, word_pairs
from headwater.attribution.index import Index
from headwater.attribution.queries import query_blocks
from headwater.attribution.words import Texts
from headwater.methods import get_method
from headwater.runs import Corpus


def words_between(
    index: Index,
    queries: Corpus,
    labels: Sequence[str | int],
    rows: Sequence[Sequence[int]],
    *,
    method: str = "tracin-we",
    **options: Any,
) -> dict[tuple[int, int], tuple[WordPair, ...]]:
    """Take the score of each query with each of its `rows` apart: the pairs of words by (query, row), strongest first.

    The pairs of one row add up to its score. Raises StoreError where the index lacks what the method reads.
    """
    found: dict[tuple[int, int], tuple[WordPair, ...]] = {}
    special = frozenset(special_tokens(index.run))
    names = TokenNames(index.run.tokenizer)
    for start, block, block_labels in query_blocks(queries, list(labels), get_method(method), len(index)):
        question, scorer = index._ask(block, block_labels, method, options, NEW_TOKENS)
        for number, query in enumerate(question.asked):
            wanted = np.array(sorted(set(rows[start + number])), dtype=np.int64)
            if not len(wanted):
                continue
            taken = scorer.explain(number, wanted)
            examples = [question.corpus[int(row)] for row in wanted]
            encodings = index.run.task.encode(index.run.tokenizer, examples, offsets=True)
            asked = Texts.of(query.example, query.encoding)
            for row, encoding in zip(map(index.run.task.shown, examples), encodings, strict=True):
                pairs = word_pairs(taken, asked, Texts.of(row, encoding), names, special)
                found[start + number, row.row] = tuple(pairs)
    return found
