"""Which words of the training rows push a label, over many queries at once: sums over the inverted index.

    push(w, y) = sum_c weight_c  sum_{rows x that hold w}  < g_c(x, w), sum_{queries of label y} g_c(query, w) >

which is TracIn-WE's score (Yeh et al. 2022, arXiv 2202.11844) summed over all rows, and over all queries explained by
that label; so each posting of the index meets one vector a label, however many queries there are. A token belongs to
the word of the row that it is part of; one that is part of several words of a row stands by itself, as in answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from headwater.attribution.build import special_tokens
from headwater.attribution.explain import TokenNames
from headwater.attribution.index import Index
from headwater.attribution.queries import query_blocks
from headwater.attribution.taught import POSTINGS, row_of_stored, taught
from headwater.attribution.words import split_words
from headwater.errors import StoreError
from headwater.methods import Matched, TokenPart, get_method
from headwater.progress import progress_bar
from headwater.runs import Corpus, Run
from headwater.store import Postings

_METHOD = "tracin-we"
_ROWS = 1024  # rows that are tokenized at a time


@dataclass(frozen=True)
class WordTable:
    """Words by number, with what they push. Words are told apart without regard to case."""

    words: tuple[str, ...]
    labels: tuple[str, ...]
    """What the queries were explained by; ("",) of a language model: all completions together."""
    queries: tuple[int, ...]
    """How many queries of each label."""
    push: Float64[np.ndarray, "words labels"]
    special: Float64[np.ndarray, "labels"]
    """The push of [CLS], [SEP] and the like, which are no words."""
    entry_rows: Int64[np.ndarray, "entries"]
    entry_words: Int64[np.ndarray, "entries"]
    entry_push: Float64[np.ndarray, "entries labels"]
    """What each row pushed through each of its words; entries are sorted by word, then row."""
    entry_tokens: Mapping[int, tuple[int, ...]] = field(repr=False)
    """Of each word, the tokens that it was found in."""
    asked: tuple[tuple[int, Sequence[TokenPart]], ...] = field(repr=False)
    """The queries' gradients in blocks: the first query's number, and the parts."""

    @property
    def rows(self) -> Int64[np.ndarray, "words"]:
        """Return how many rows pushed something through each word."""
        return np.bincount(self.entry_words, minlength=len(self.words))

    @property
    def whole(self) -> Float64[np.ndarray, "labels"]:
        """Return the push of all rows: that of the words and of the special tokens."""
        return np.asarray(self.push.sum(axis=0) + self.special)

    def number(self, word: str) -> int | None:
        """Return a word's number; None if no row pushed anything through it."""
        return self._numbers.get(word.casefold())

    def entries(self, word: int) -> slice:
        """Return where a word's entries stand."""
        first, last = np.searchsorted(self.entry_words, [word, word + 1])
        return slice(int(first), int(last))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}


def word_table(index: Index, queries: Corpus, *, show: bool | None = None) -> WordTable:
    """Sum up what each word of the rows pushed `queries` toward their labels.

    Memory: one vector a token of the queries and label, and one entry a word of a row. Raises StoreError where the
    index holds no token gradients.
    """
    if index.token_store is None:
        raise StoreError("words need token gradients, which this index has not: headwater index RUN.")
    labels, numbers = _labels(index, queries)
    blocks = _asked(index, queries)
    special = frozenset(special_tokens(index.run))
    wanted = {int(token) for _, parts in blocks for part in parts for token in part.queries.tokens}
    words_of = _WordsOf(index.run, wanted - special, show)
    found = _Entries(len(labels))
    for at, part in enumerate(blocks[0][1]):
        vectors = _summed([(start, parts[at]) for start, parts in blocks], numbers, len(labels))
        _add(found, part, vectors, special, words_of)
    return found.table(labels, np.bincount(numbers, minlength=len(labels)), words_of, blocks)


def moved(index: Index, table: WordTable, word: int, queries: int) -> Float64[np.ndarray, "queries"]:
    """Return how far each of the queries that a table was made of is pushed toward its label through one word."""
    rows = np.unique(table.entry_rows[table.entries(word)])
    total = np.zeros(queries)
    for start, parts in table.asked:
        for part in parts:
            for token in table.entry_tokens[word]:
                mine = part.queries.span(token)
                if mine.stop == mine.start:
                    continue
                vector = taught(part, token, rows)
                values = part.queries.gradients(mine).double() @ vector * part.weight
                np.add.at(total, part.queries.rows[mine].astype(np.int64) + start, values.numpy())
    return total


class _WordsOf:
    """The word that a token of a row is part of, found by tokenizing the rows once."""

    def __init__(self, run: Run, tokens: Collection[int], show: bool | None) -> None:
        self._names = TokenNames(run.tokenizer)
        self.numbers: dict[str, int] = {}
        self._of: list[dict[int, int]] = []
        with progress_bar("finding words", len(run.corpus), show=show) as advance:
            for start in range(0, len(run.corpus), _ROWS):
                examples = run.corpus.rows(start, min(start + _ROWS, len(run.corpus)))
                encodings = run.task.encode(run.tokenizer, examples, offsets=True)
                for example, encoding in zip(map(run.task.shown, examples), encodings, strict=True):
                    texts = [example.text] if example.text_pair is None else [example.text, example.text_pair]
                    words = split_words(texts, encoding)
                    self._of.append(self._row(encoding.looked_up, words.of_place, words.surface, tokens))
                advance(len(examples))

    def _row(
        self, ids: Sequence[int], places: Sequence[int | None], surface: Callable[[int], str], tokens: Collection[int]
    ) -> dict[int, int]:
        held: dict[int, set[str]] = {}
        for token, word in zip(ids, places, strict=True):
            if int(token) in tokens:
                found = held.setdefault(int(token), set())
                if word is not None:
                    found.add(surface(word).casefold())
        return {
            token: self._number(next(iter(ways)) if len(ways) == 1 else self._alone(token))
            for token, ways in held.items()
        }

    def _alone(self, token: int) -> str:
        return self._names[token].casefold()

    def _number(self, word: str) -> int:
        return self.numbers.setdefault(word, len(self.numbers))

    def __call__(self, row: int, token: int) -> int:
        """Return the number of the word."""
        of = self._of[row]
        if token not in of:  # cut off in the encoding of today, or of another run
            of[token] = self._number(self._alone(token))
        return of[token]


class _Entries:
    """Pushes by row and word while they are added up."""

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self.special = np.zeros(labels)
        self._rows: list[Int64[np.ndarray, "n"]] = []
        self._words: list[Int64[np.ndarray, "n"]] = []
        self._pushes: list[Float64[np.ndarray, "n labels"]] = []
        self.tokens: dict[int, set[int]] = {}

    def add(
        self,
        rows: Int64[np.ndarray, "n"],
        words: Int64[np.ndarray, "n"],
        pushes: Float64[np.ndarray, "n labels"],
        token: int,
    ) -> None:
        self._rows.append(rows)
        self._words.append(words)
        self._pushes.append(pushes)
        for word in np.unique(words).tolist():
            self.tokens.setdefault(word, set()).add(token)

    def table(
        self,
        labels: tuple[str, ...],
        queries: Int64[np.ndarray, "labels"],
        words_of: _WordsOf,
        blocks: Sequence[tuple[int, Sequence[TokenPart]]],
    ) -> WordTable:
        rows = np.concatenate([*self._rows, np.zeros(0, dtype=np.int64)])
        words = np.concatenate([*self._words, np.zeros(0, dtype=np.int64)])
        pushes = np.concatenate([*self._pushes, np.zeros((0, self.labels))])
        pairs, inverse = np.unique(np.stack([words, rows], axis=1), axis=0, return_inverse=True)
        total = np.zeros((len(pairs), self.labels))
        np.add.at(total, inverse.reshape(-1), pushes)
        used = np.unique(pairs[:, 0])
        names = np.array(list(words_of.numbers), dtype=object)
        push = np.zeros((len(used), self.labels))
        at = np.searchsorted(used, pairs[:, 0])
        np.add.at(push, at, total)
        return WordTable(
            tuple(names[used].tolist()) if len(used) else (),
            labels,
            tuple(queries.tolist()),
            push,
            self.special,
            pairs[:, 1],
            at.astype(np.int64),
            total,
            {number: tuple(sorted(self.tokens[int(word)])) for number, word in enumerate(used)},
            tuple(blocks),
        )


def _labels(index: Index, queries: Corpus) -> tuple[tuple[str, ...], Int64[np.ndarray, "queries"]]:
    """The labels of the queries, and the number of each query's."""
    names = tuple(map(str, index.run.label2id))
    if not names:
        return ("",), np.zeros(len(queries), dtype=np.int64)
    number = {name: at for at, name in enumerate(names)}
    by_id = {str(at): at for at in index.run.label2id.values()}
    found = [str(example.label) for example in queries]
    return names, np.array([number.get(label, by_id.get(label, 0)) for label in found], dtype=np.int64)


def _asked(index: Index, queries: Corpus) -> list[tuple[int, Sequence[TokenPart]]]:
    labels: list[str | int] = ["" if example.label is None else example.label for example in queries]
    found = []
    for start, block, block_labels in query_blocks(queries, labels, get_method(_METHOD), len(index)):
        _, scorer = index._ask(block, block_labels, _METHOD, {}, 0)
        assert isinstance(scorer, Matched)
        found.append((start, scorer.parts))
    return found


def _summed(
    blocks: Sequence[tuple[int, TokenPart]], numbers: Int64[np.ndarray, "queries"], labels: int
) -> dict[int, Tensor]:
    """Add up the queries' gradients of each token by label: float64 [labels, d]."""
    sums: dict[int, Tensor] = {}
    for start, part in blocks:
        for token in part.queries.tokens.tolist():
            where = part.queries.span(token)
            vectors = part.queries.gradients(where).double()
            mine = torch.from_numpy(numbers[part.queries.rows[where].astype(np.int64) + start])
            total = sums.setdefault(token, torch.zeros(labels, vectors.shape[1], dtype=torch.float64))
            total.index_add_(0, mine, vectors)
    return sums


def _add(
    found: _Entries, part: TokenPart, vectors: Mapping[int, Tensor], special: Collection[int], words_of: _WordsOf
) -> None:
    """Let every posting of one checkpoint meet what the queries pushed through its token."""
    row_of = row_of_stored(part.store)
    for segment in part.store.segments(part.checkpoint):
        for token in segment.postings.tokens.tolist():
            asked = vectors.get(token)
            if asked is None:
                continue
            where = segment.postings.span(token)
            rows = row_of[segment.postings.rows[where].astype(np.int64) + segment.rows.start]
            alive = rows >= 0
            values = _times(segment.postings, where, alive, asked) * part.weight
            if token in special:
                found.special += values.sum(axis=0)
                continue
            rows = rows[alive]
            words = np.array([words_of(row, token) for row in rows.tolist()], dtype=np.int64)
            found.add(rows, words, values, token)


def _times(
    postings: Postings, where: slice, alive: Bool[np.ndarray, "n"], asked: Tensor
) -> Float64[np.ndarray, "n labels"]:
    places = np.arange(where.start, where.stop)[alive]
    pieces = [np.zeros((0, len(asked)))]
    for start in range(0, len(places), POSTINGS):
        some = postings.gradients(places[start : start + POSTINGS]).double()
        pieces.append((some @ asked.T).numpy())
    return np.concatenate(pieces)
