"""Word deletion: remove the words that a method names, keep the rows, retrain, and look. Ours; no paper does it.

    WORD-DEL(q, m) = E[ f(q; retrained with the m highest-scored words cut out) ] - E[ f(q; trained on all) ]

A word is one occurrence in one row. Deletion of rows cannot tell whether a method knows *why* a row matters; this can:
the control cuts as many random words out of the same rows (`random_words`). Proponents' words should lower f. Curves,
their areas and intervals are those of `deletion`, over the values that `gather` finds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int64

from headwater.attribution.attributions import Attribution
from headwater.attribution.words import Word, split_words
from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import same_length
from headwater.runs import Corpus, Run
from headwater.runs.conversation import is_conversation_type

COUNTS = (10, 20, 50)


@dataclass(frozen=True, order=True)
class RowWord:
    """A word where it stands: its row in the corpus, and its place in that row's texts."""

    row: int
    word: Word


Edit = tuple[RowWord, ...]
"""Words to cut out, ascending."""


@dataclass(frozen=True)
class WordPlan:
    """Which edited corpora must be trained on, each once, and where each point of each curve finds its own."""

    edits: tuple[Edit, ...]
    counts: tuple[int, ...]
    of: Int64[np.ndarray, "curves counts"]
    cut: Int64[np.ndarray, "curves counts"]
    """How many words are really cut: fewer than asked where the method names no more."""


def words_of(attribution: Attribution) -> dict[RowWord, float]:
    """The score of every word of the rows that an answer shows, summed over the query's words.

    A token that several words of a row share (or that occurs in it several times) has one score: each of the words
    gets an equal part. What special tokens carry belongs to no word.
    """
    found: dict[RowWord, float] = defaultdict(float)
    shown = {influence.example.row: influence for influence in (*attribution.proponents, *attribution.opponents)}
    for row, influence in shown.items():
        for pair in influence.words:
            for word in pair.train_spans:
                found[RowWord(row, word)] += pair.score / len(pair.train_spans)
    return dict(found)


def random_words(run: Run, rows: Sequence[int], *, seed: int = 0) -> dict[RowWord, float]:
    """The control: every word of these rows that the model reads, with a random score above 0."""
    examples = [run.corpus[row] for row in sorted(set(rows))]
    encodings = run.task.encode(run.tokenizer, examples, offsets=True)
    found: list[RowWord] = []
    for example, encoding in zip(examples, encodings, strict=True):
        shown = run.task.shown(example)
        words = split_words([text for text in (shown.text, shown.text_pair) if text is not None], encoding)
        read = {at for at in words.of_place if at is not None}
        found += [RowWord(example.row, words.words[at]) for at in sorted(read)]
    scores = 1.0 - np.random.default_rng(seed).random(len(found))
    return dict(zip(found, scores.tolist(), strict=True))


def plan(
    scores: Sequence[dict[RowWord, float]],
    corpus: Corpus,
    *,
    counts: Sequence[int] = COUNTS,
    opponents: bool = False,
    seed: int = 0,
) -> WordPlan:
    """Plan, for each query and each count, the cutting of its words with the highest (lowest) scores.

    Only words with a score above 0 (of opponents: below) are named; equal scores are shuffled. No text loses its last
    visible word: the next in the list is cut instead. Raises UsageError for counts that do not ascend from 1, for
    words that are not in the corpus, and for conversations, which have no columns of words.
    """
    sizes = tuple(int(count) for count in counts)
    if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
        raise UsageError(f"counts must ascend from at least 1, not {sizes}.")
    numbers: dict[Edit, int] = {}
    of, cut = np.empty((2, len(scores), len(sizes)), dtype=np.int64)
    for curve, own in enumerate(scores):
        order = _cuttable(_ordered(own, -1.0 if opponents else 1.0, seed), corpus, sizes[-1])
        for point, count in enumerate(sizes):
            edit = tuple(sorted(order[:count]))
            of[curve, point], cut[curve, point] = numbers.setdefault(edit, len(numbers)), len(edit)
    return WordPlan(tuple(numbers), sizes, of, cut)


def edited(corpus: Corpus, edit: Edit) -> Corpus:
    """A corpus with these words cut out of its texts, and one of the two spaces around each; every row stays.

    Part 0 is the text; part 1 the second text, or where there is none the label: a language model's completion.
    Raises UsageError where a word is not in its text, DataError where a text would be blank.
    """
    table = corpus.table
    for part in sorted({item.word.part for item in edit}):
        name = _column(corpus, part)
        texts = table.column(name).to_pylist()
        for row, words in _by_row(edit, part).items():
            texts[row] = _without(_text(corpus, texts, row), words)
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(texts, table.schema.field(name).type))
    return Corpus(table, corpus.columns, corpus.name)


def gather(
    made: WordPlan, outputs: Float[np.ndarray, "edits seeds queries"]
) -> Float[np.ndarray, "queries counts seeds"]:
    """Take the outputs of each query's own edits; `outputs` are those of `made.edits`, in order. Raises UsageError."""
    outputs = np.asarray(outputs)
    same_length(edits=len(made.edits), outputs=len(outputs))
    same_length(plan=len(made.of), queries=outputs.shape[2])
    return outputs[made.of, :, np.arange(len(made.of))[:, None]]


def _ordered(scores: dict[RowWord, float], sign: float, seed: int) -> list[RowWord]:
    if not all(math.isfinite(score) for score in scores.values()):
        raise UsageError("a word's score is no finite number: it cannot be graded.")
    named = sorted(word for word, score in scores.items() if sign * score > 0)
    values = np.array([scores[word] for word in named])
    shuffled = np.random.default_rng(seed).permutation(len(named))
    return [named[at] for at in np.lexsort((shuffled, -sign * values))]


def _cuttable(order: Sequence[RowWord], corpus: Corpus, most: int) -> list[RowWord]:
    """The first `most` words of the list that can be cut without leaving a text blank."""
    texts: dict[int, list[str]] = {}
    gone: dict[tuple[int, int], list[Word]] = defaultdict(list)
    kept: list[RowWord] = []
    for item in order:
        if len(kept) == most:
            break
        part = item.word.part
        if part not in texts:
            texts[part] = corpus.table.column(_column(corpus, part)).to_pylist()
        words = [*gone[item.row, part], item.word]
        if _without(_text(corpus, texts[part], item.row), words).strip():
            gone[item.row, part] = words
            kept.append(item)
    return kept


def _column(corpus: Corpus, part: int) -> str:
    columns = corpus.columns
    name = columns.text if part == 0 else columns.text_pair or columns.label
    if name is None or is_conversation_type(corpus.table.schema.field(columns.text).type):
        raise UsageError(f"{corpus.name}: words can be cut out of columns of text, not out of conversations.")
    return name


def _text(corpus: Corpus, texts: Sequence[object], row: int) -> str:
    if not 0 <= row < len(texts) or not isinstance(texts[row], str):
        raise UsageError(f"{corpus.name}: row {row:,} (from 0) has no text to cut words out of.")
    return str(texts[row])


def _by_row(edit: Edit, part: int) -> dict[int, list[Word]]:
    rows: dict[int, list[Word]] = defaultdict(list)
    for item in edit:
        if item.word.part == part:
            rows[item.row].append(item.word)
    return rows


def _without(text: str, words: Sequence[Word]) -> str:
    last = len(text)
    for word in sorted(words, reverse=True):  # from the end, so that what stands before keeps its place
        start, end = word.start, word.end
        if not 0 <= start < end <= last:
            raise UsageError(f"there is no word at characters {start} to {end} of {text[:60]!r}, or it was cut twice.")
        last = start
        before, after = text[:start], text[end:]
        if after[:1].isspace() and (not before or before[-1].isspace()):
            after = after[1:]
        elif not after and before[-1:].isspace():
            before = before[:-1]
        text = before + after
    return text
