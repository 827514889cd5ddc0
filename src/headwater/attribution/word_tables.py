"""Which words of the training rows push a label, over many queries at once: sums over the inverted index.

    push(w, y) = sum_c weight_c  sum_{rows x that hold w}  < g_c(x, w), sum_{queries of label y} g_c(query, w) >

which is TracIn-WE's score (Yeh et al. 2022, arXiv 2202.11844) summed over all rows, and over all queries explained by
that label; so each posting of the index meets one vector a label, however many queries there are. A token belongs to
the word of the row that it is part of; one that is part of several words of a row stands by itself, as in answers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from headwater.attribution.build import special_tokens
from headwater.attribution.completions import NEW_TOKENS
from headwater.attribution.explain import both_sides, ends
from headwater.attribution.index import Index
from headwater.attribution.kept_tables import Arrays, Facts, kept_table, table_path
from headwater.attribution.living import as_stored
from headwater.attribution.queries import query_blocks
from headwater.attribution.taught import POSTINGS, row_of_stored
from headwater.attribution.top import score_all
from headwater.attribution.words_of_rows import WordsOf, rows_holding
from headwater.errors import StoreError
from headwater.methods import Matched, TokenPart, get_method
from headwater.progress import progress_bar
from headwater.runs import Corpus
from headwater.store import Postings

LISTED = 10  # rows a side of a list, when hubs are counted

_METHOD = "tracin-we"


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
    move_queries: Int64[np.ndarray, "moves"]
    move_words: Int64[np.ndarray, "moves"]
    move_push: Float64[np.ndarray, "moves"]
    """How far all rows pushed each query toward its label through each of its words; sorted by word, then query."""
    hubs: Int64[np.ndarray, "rows"]
    """In how many of the queries' lists each row of the corpus stands: the `LISTED` strongest either way."""

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

    def moved(self, word: int) -> Float64[np.ndarray, "queries"]:
        """Return how far each query is pushed toward its label through one word."""
        first, last = np.searchsorted(self.move_words, [word, word + 1])
        total = np.zeros(sum(self.queries))
        total[self.move_queries[first:last]] = self.move_push[first:last]
        return total

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}


def word_table(index: Index, queries: Corpus, *, show: bool | None = None) -> WordTable:
    """Sum up what each word of the rows pushed `queries` toward their labels; once made, it is kept beside the index
    (one is kept, that of the latest queries).

    Memory: one vector a token of the queries and label, and one entry a word of a row. Raises StoreError where the
    index holds no token gradients.
    """
    _need_tokens(index)
    make = partial(_made, index, queries, show)
    return kept_table(index, "words", make, take=_taken, give=_given, of=[queries.fingerprint])


def pushed_through(
    index: Index, queries: Corpus, word: str, *, show: bool | None = None
) -> tuple[Int64[np.ndarray, "rows"], Float64[np.ndarray, "rows"]]:
    """How far rows pushed `queries` toward their labels through one word: the rows, ascending, and what each pushed.

    These are the word's entries of `word_table`, all labels together; but only rows whose text holds the word are read,
    no row is scored as a whole, and nothing is kept. Raises StoreError where the index holds no token gradients.
    """
    _need_tokens(index)
    table = _made(index, queries, show, word.casefold())
    number = table.number(word)
    where = slice(0, 0) if number is None else table.entries(number)
    return table.entry_rows[where], table.entry_push[where].sum(axis=1)


def _need_tokens(index: Index) -> None:
    if index.token_store is None:
        raise StoreError("words need token gradients, which this index has not: headwater index RUN.")


def is_kept(index: Index, queries: Corpus) -> bool:
    """Say whether the table of these queries was made before, so that it is there at once."""
    return table_path(index, "words", [queries.fingerprint]).exists()


def _made(index: Index, queries: Corpus, show: bool | None, word: str | None = None) -> WordTable:
    """The table; or the part of it that speaks of one word, without hubs."""
    labels, numbers = _labels(index, queries)
    blocks, hubs = _asked(index, queries, listed=word is None)
    special = frozenset(special_tokens(index.run))
    wanted = {int(token) for _, parts in blocks for part in parts for token in part.queries.tokens}
    words_of = WordsOf(index.run, wanted - special, show, None if word is None else rows_holding(index.run, word))
    if word is not None:
        wanted = words_of.tokens(word)
    found = _Entries(len(labels))
    for at in range(len(blocks[0][1])):
        asked = [(start, parts[at]) for start, parts in blocks]
        _add(found, asked, _summed(asked, numbers, len(labels), wanted), special, words_of, show)
    return found.table(labels, np.bincount(numbers, minlength=len(labels)), words_of, hubs)


_ARRAYS = (
    "push", "special", "entry_rows", "entry_words", "entry_push", "move_queries", "move_words", "move_push", "hubs",
)  # fmt: skip


def _taken(table: WordTable) -> tuple[Facts, Arrays]:
    facts = {"words": list(table.words), "labels": list(table.labels), "queries": list(table.queries)}
    return facts, {name: getattr(table, name) for name in _ARRAYS}


def _given(facts: Facts, arrays: Arrays) -> WordTable:
    words, labels, queries = (tuple(facts[name]) for name in ("words", "labels", "queries"))
    return WordTable(words, labels, queries, **{name: arrays[name] for name in _ARRAYS})


class _Entries:
    """Pushes by word and row, and by word and query, while they are added up."""

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self.special = np.zeros(labels)
        self._rows: list[_Piece] = []
        self._queries: list[_Piece] = []

    def add(
        self, rows: Int64[np.ndarray, "n"], words: Int64[np.ndarray, "n"], pushes: Float64[np.ndarray, "n labels"]
    ) -> None:
        """Add what rows pushed through their words."""
        self._rows.append((words, rows, pushes))

    def move(
        self, queries: Int64[np.ndarray, "n"], words: Int64[np.ndarray, "n"], pushes: Float64[np.ndarray, "n"]
    ) -> None:
        """Add how far queries are pushed through words."""
        self._queries.append((words, queries, pushes[:, None]))

    def table(
        self,
        labels: tuple[str, ...],
        queries: Int64[np.ndarray, "labels"],
        words_of: WordsOf,
        hubs: Int64[np.ndarray, "rows"],
    ) -> WordTable:
        words, rows, pushes = _added(self._rows, self.labels)
        used = np.unique(words)
        names = np.array(list(words_of.numbers), dtype=object)
        push = np.zeros((len(used), self.labels))
        at = np.searchsorted(used, words).astype(np.int64)
        np.add.at(push, at, pushes)
        moving, moved, moves = _added(self._queries, 1)
        return WordTable(
            tuple(names[used].tolist()) if len(used) else (),
            labels,
            tuple(queries.tolist()),
            push,
            self.special,
            rows,
            at,
            pushes,
            moved,
            np.searchsorted(used, moving).astype(np.int64),
            moves[:, 0].copy(),
            hubs,
        )


_Piece = tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"], Float64[np.ndarray, "n k"]]


def _added(pieces: Sequence[_Piece], width: int) -> _Piece:
    """Add up the values of equal pairs of numbers; sorted by the first, then the second."""
    none = np.zeros(0, dtype=np.int64)
    first, second = (np.concatenate([*(piece[at] for piece in pieces), none]) for at in (0, 1))
    values = np.concatenate([*(piece[2] for piece in pieces), np.zeros((0, width))])
    span = int(second.max(initial=0)) + 1
    pairs, inverse = np.unique(first * span + second, return_inverse=True)  # one number a pair: sorted ten times faster
    total = np.zeros((len(pairs), width))
    np.add.at(total, inverse, values)
    return pairs // span, pairs % span, total


def _labels(index: Index, queries: Corpus) -> tuple[tuple[str, ...], Int64[np.ndarray, "queries"]]:
    """The labels of the queries, and the number of each query's."""
    names = tuple(map(str, index.run.label2id))
    if not names:
        return ("",), np.zeros(len(queries), dtype=np.int64)
    number = {name: at for at, name in enumerate(names)}
    by_id = {str(at): at for at in index.run.label2id.values()}
    found = [str(example.label) for example in queries]
    return names, np.array([number.get(label, by_id.get(label, 0)) for label in found], dtype=np.int64)


def _asked(
    index: Index, queries: Corpus, *, listed: bool
) -> tuple[list[tuple[int, Sequence[TokenPart]]], Int64[np.ndarray, "rows"]]:
    """The queries' gradients in blocks, each with the number of its first; and how often each row is `listed`."""
    labels: list[str | int] = ["" if example.label is None else example.label for example in queries]
    found, hubs = [], np.zeros(len(index), dtype=np.int64)
    for start, block, block_labels in query_blocks(queries, labels, get_method(_METHOD), len(index)):
        question, scorer = index._ask(block, block_labels, _METHOD, {}, NEW_TOKENS)
        for line in score_all(question, scorer) if listed else ():
            rows = ends(line, np.ones(len(line), dtype=np.bool_), LISTED, 0.0)
            sides = both_sides(rows, line[rows].astype(np.float64), LISTED)
            hubs[[row for row, _ in (*sides.proponents, *sides.opponents)]] += 1
        matched = as_stored(scorer)
        assert isinstance(matched, Matched)
        found.append((start, matched.parts))
    return found, hubs


def _summed(
    blocks: Sequence[tuple[int, TokenPart]],
    numbers: Int64[np.ndarray, "queries"],
    labels: int,
    wanted: Collection[int],
) -> dict[int, Tensor]:
    """Add up the queries' gradients of each token that is wanted, by label: float64 [labels, d]."""
    sums: dict[int, Tensor] = {}
    for start, part in blocks:
        for token in part.queries.tokens.tolist():
            if token not in wanted:
                continue
            where = part.queries.span(token)
            vectors = part.queries.gradients(where).double()
            mine = torch.from_numpy(numbers[part.queries.rows[where].astype(np.int64) + start])
            total = sums.setdefault(token, torch.zeros(labels, vectors.shape[1], dtype=torch.float64))
            total.index_add_(0, mine, vectors)
    return sums


def _add(
    found: _Entries,
    asked: Sequence[tuple[int, TokenPart]],
    vectors: Mapping[int, Tensor],
    special: Collection[int],
    words_of: WordsOf,
    show: bool | None,
) -> None:
    """Let every posting of one checkpoint meet what the queries pushed through its token.

    `asked`: the queries of that checkpoint in blocks, each with the number of its first.
    """
    part = asked[0][1]
    row_of = words_of.among(row_of_stored(part.store))
    segments = list(part.store.segments(part.checkpoint))
    title = f"adding up what words pushed at {part.checkpoint.name}"
    with progress_bar(title, sum(len(segment.postings) for segment in segments), unit="postings", show=show) as advance:
        for segment in segments:
            for token in segment.postings.tokens.tolist():
                where = segment.postings.span(token)
                advance(where.stop - where.start)
                if token not in vectors:
                    continue
                rows = row_of[segment.postings.rows[where].astype(np.int64) + segment.rows.start]
                places, rows = np.arange(where.start, where.stop)[rows >= 0], rows[rows >= 0]
                if token in special:
                    none = np.zeros(len(rows), dtype=np.int64)
                    values, _ = _times(segment.postings, places, none, vectors[token])
                    found.special += values.sum(axis=0) * part.weight
                    continue
                words, of_word = np.unique([words_of(row, token) for row in rows.tolist()], return_inverse=True)
                values, sums = _times(segment.postings, places, of_word, vectors[token])
                found.add(rows, words[of_word].astype(np.int64), values * part.weight)
                for start, block in asked:
                    mine = block.queries.span(token)
                    if mine.stop > mine.start:
                        moves = (block.queries.gradients(mine).double() @ sums.T).numpy() * part.weight
                        queries = block.queries.rows[mine].astype(np.int64) + start
                        numbers = np.tile(words.astype(np.int64), len(queries))
                        found.move(np.repeat(queries, len(words)), numbers, moves.reshape(-1))


def _times(
    postings: Postings, places: Int64[np.ndarray, "n"], words: Int64[np.ndarray, "n"], asked: Float64[Tensor, "l d"]
) -> tuple[Float64[np.ndarray, "n l"], Float64[Tensor, "w d"]]:
    """Multiply postings with what was asked, and add them up by word (numbers from 0)."""
    pieces = [np.zeros((0, len(asked)))]
    sums = torch.zeros(int(words.max(initial=-1)) + 1, asked.shape[1], dtype=torch.float64)
    for start in range(0, len(places), POSTINGS):
        some = postings.gradients(places[start : start + POSTINGS]).double()
        sums.index_add_(0, torch.from_numpy(words[start : start + POSTINGS].astype(np.int64)), some)
        pieces.append((some @ asked.T).numpy())
    return np.concatenate(pieces), sums
