"""What all training rows together pushed through each word of one query: TracIn-WE's scores, summed over the rows.

    push(word) = sum_c weight_c  sum_{places p of the word} < g_c(query, p), sum_rows g_c(row, token at p) >

so the index is read once for the query's tokens, and the pushes add up to the sum of all scores.
"""

from __future__ import annotations

from dataclasses import dataclass

from headwater.attribution.completions import NEW_TOKENS
from headwater.attribution.index import Index
from headwater.attribution.living import as_stored
from headwater.attribution.queries import Queries
from headwater.attribution.taught import taught
from headwater.attribution.words import Texts
from headwater.errors import StoreError
from headwater.methods import Matched, TokenPart
from headwater.progress import stage


@dataclass(frozen=True)
class QueryWord:
    """A word of the query in the order of the text, and what all rows pushed through it."""

    word: str
    push: float


@dataclass(frozen=True)
class QueryWords:
    """The words, and what went through special tokens; together the sum of all scores."""

    words: tuple[QueryWord, ...]
    special: float


def query_words(index: Index, query: Queries, label: str | int | None) -> QueryWords:
    """Sum up all rows by the words of one query, explained by `label` (None: what the model says).

    Raises StoreError where the index holds no token gradients.
    """
    if index.token_store is None:
        raise StoreError("words need token gradients, which this index has not: headwater index RUN.")
    read, labels = index._read(query, None if label is None else [label])
    question, scorer = index._ask(read, labels, "tracin-we", {}, NEW_TOKENS)
    matched = as_stored(scorer)
    assert isinstance(matched, Matched)
    asked = question.asked[0]
    texts = Texts.of(asked.example, asked.encoding)
    of_place = texts.words.of_place
    pushes: dict[int | None, float] = {}
    stage("adding up what all rows pushed through each word")
    for part in matched.parts:
        for place, value in _by_place(part):
            word = of_place[place] if 0 <= place < len(of_place) else None
            pushes[word] = pushes.get(word, 0.0) + value
    words = [QueryWord(texts.words.surface(w), pushes[w]) for w in sorted(w for w in pushes if w is not None)]
    return QueryWords(tuple(words), pushes.get(None, 0.0))


def _by_place(part: TokenPart) -> list[tuple[int, float]]:
    """What all rows pushed through each place of the query at one checkpoint."""
    vectors = {token: taught(part, token) for token in part.queries.tokens.tolist()}
    found = []
    for at in range(len(part.places.rows)):
        vector = vectors.get(int(part.places.tokens[at]))
        if vector is not None:
            value = float(part.places.gradients[at].cpu().double() @ vector) * part.weight
            found.append((int(part.places.places[at]), value))
    return found
