"""The word of a row that a token is part of; one that is part of several words of a row stands by itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from jaxtyping import Bool, Int64

from headwater.attribution.explain import TokenNames
from headwater.attribution.words import split_words
from headwater.progress import progress_bar
from headwater.runs import Run
from headwater.runs.task import shown_texts

_ROWS = 1024  # rows that are tokenized at a time


def rows_holding(run: Run, word: str) -> Bool[np.ndarray, "rows"]:
    """Which rows' texts hold a word, be it as a part of another one."""
    shown = (shown_texts(run.task, example) for example in run.corpus)
    return np.array([any(word in text.casefold() for text in texts) for texts in shown], dtype=np.bool_)


class WordsOf:
    """The word that a token of a row is part of, found by tokenizing the rows (`of`: these alone) once."""

    def __init__(
        self, run: Run, tokens: Collection[int], show: bool | None, of: Bool[np.ndarray, "rows"] | None = None
    ) -> None:
        self._rows = of
        self._names = TokenNames(run.tokenizer)
        self.numbers: dict[str, int] = {}
        self._of: list[dict[int, int]] = []
        with progress_bar("finding words", len(run.corpus), show=show) as advance:
            for start in range(0, len(run.corpus), _ROWS):
                examples = run.corpus.rows(start, min(start + _ROWS, len(run.corpus)))
                read = [example for example in examples if of is None or of[example.row]]
                encodings = iter(run.task.encode(run.tokenizer, read, offsets=True) if read else ())
                for example in examples:
                    if of is not None and not of[example.row]:
                        self._of.append({})
                        continue
                    encoding = next(encodings)
                    words = split_words(shown_texts(run.task, example), encoding)
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

    def tokens(self, word: str) -> set[int]:
        """Return the tokens that are part of a word, or stand for it, in any row."""
        number = self.numbers.get(word)
        return {token for held in self._of for token, each in held.items() if each == number}

    def among(self, rows: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
        """Return row numbers with -1 for those that were not read."""
        return rows if self._rows is None else np.where((rows >= 0) & self._rows[rows], rows, -1)

    def __call__(self, row: int, token: int) -> int:
        """Return the number of the word."""
        of = self._of[row]
        if token not in of:  # cut off in the encoding of today, or of another run
            of[token] = self._number(self._alone(token))
        return of[token]
