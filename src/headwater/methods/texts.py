"""Texts as bags of words, for the methods that need no model: words, tf-idf vectors, and whose labels agree.

A word is a run of letters, marks, digits and underscores, in lower case; in scripts that put no spaces between words it
is a single character. No words are left out: the idf of frequent ones is small. A text is all that the model was given
of a row before cutting it at its longest input: both texts of a pair, of a language model prompt and completion.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex
from jaxtyping import Float64, Int64

from headwater.methods.method import Question
from headwater.runs import Example, Task

_ONE_BY_ONE = r"\p{Han}\p{Hiragana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"[{_ONE_BY_ONE}]|[[\w\p{{M}}]--[{_ONE_BY_ONE}]]+", flags=regex.V1)


def words_of(text: str) -> list[str]:
    """Cut a text into words (see the module's top); one of a single letter is a word too."""
    found: list[str] = _WORD.findall(unicodedata.normalize("NFKC", text).lower())
    return found


def text_of(task: Task, example: Example) -> str:
    """Return all the text of an example: the second text, or the completion, after the first."""
    shown = task.shown(example)
    return shown.text if shown.text_pair is None else f"{shown.text}\n{shown.text_pair}"


def agreement(question: Question) -> Callable[[int], Float64[np.ndarray, "rows"]]:
    """Return a function of the query's number: 1 for rows of the class that is explained of it, -1 for others."""
    labels = np.asarray(question.run.targets)
    return lambda query: np.where(labels == question.targets[query], 1.0, -1.0)


@dataclass(frozen=True)
class TfIdf:
    """Tf-idf vectors of length 1, float64, in scikit-learn's form: tf * (1 + ln((1 + n) / (1 + df))).

    df and n are of the training rows. Called with numbers of queries and of rows, it gives their cosines.
    """

    queries: Any
    """scipy's csr_array [queries, words]"""
    rows: Any
    """scipy's csr_array [rows, words]"""

    @classmethod
    def of(cls, question: Question) -> TfIdf:
        """Weigh the words of the training rows, and make the vectors of both sides."""
        from sklearn.feature_extraction.text import TfidfVectorizer  # a second to import

        task = question.run.task
        vectors = TfidfVectorizer(analyzer=words_of, dtype=np.float64)
        rows = [text_of(task, example) for example in question.corpus]
        none = not any(words_of(text) for text in rows)
        vectors.fit(["word"] if none else rows)  # scikit-learn refuses an empty vocabulary
        return cls(vectors.transform([text_of(task, example) for example in question.queries]), vectors.transform(rows))

    def __call__(self, queries: slice, rows: slice | Int64[np.ndarray, "r"]) -> Float64[np.ndarray, "q r"]:
        """Return the cosines of some queries with some rows."""
        found: Float64[np.ndarray, "q r"] = (self.queries[queries] @ self.rows[rows].T).toarray()
        return found
