"""Tf-idf by its formula, times labels (tfidf-label) or the product of errors (tfidf-gradient); words of any script."""

import math
import unicodedata
from collections import Counter

import numpy as np
import pytest

import headwater as hw
from headwater.methods.texts import text_of, words_of
from headwater.methods.tfidf_gradient import TfIdfGradient
from headwater.methods.tfidf_gradient import prepare as prepare_gradient
from headwater.methods.tfidf_label import TfIdfLabel
from headwater.methods.tfidf_label import prepare as prepare_label
from headwater.runs import Corpus
from methods.baselines import check_scorer, part, side, text_question

ROWS = [
    "The heron, the river!",
    "a heron",
    "RIVER bread a a",
    "don't",
    "heron river bread",
    "?!",
    "the heron the river",
]
LABELS = ["good", "bad", "good", "bad", "bad", "good", "bad"]
QUERIES = ["a heron by the river", "bread bread heron", "nothing known", "..."]
ASKED = ["good", "bad", "good", "bad"]
NUMBER = {"bad": 0, "good": 1}


def rows_of(texts: list[str], labels: list[str]) -> list[dict[str, str]]:
    return [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]


def tfidf_cosine(rows: list[list[str]], one: list[str], other: list[str]) -> float:
    """tf (1 + ln((1 + n) / (1 + df))), words of the rows alone."""

    def vector(words: list[str]) -> dict[str, float]:
        found = {}
        for word, times in Counter(words).items():
            df = sum(word in row for row in rows)
            if df:
                found[word] = times * (1 + math.log((1 + len(rows)) / (1 + df)))
        return found

    a, b = vector(one), vector(other)
    length = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
    return sum(a[word] * b.get(word, 0.0) for word in a) / length if length else 0.0


def cosines(rows: list[str], queries: list[str]) -> np.ndarray:
    def plain(text: str) -> list[str]:
        return "".join(c if c.isalnum() else " " for c in text.lower()).split()

    corpus = [plain(text) for text in rows]
    return np.array([[tfidf_cosine(corpus, plain(query), row) for row in corpus] for query in queries])


def signs() -> np.ndarray:
    return np.array([[1.0 if label == asked else -1.0 for label in LABELS] for asked in ASKED])


def test_tfidf_label_is_the_cosine_with_the_sign_of_the_labels() -> None:
    question = text_question(rows_of(ROWS, LABELS), rows_of(QUERIES, ASKED), NUMBER.__getitem__)
    expected = cosines(ROWS, QUERIES) * signs()
    assert (expected > 0).any() and (expected < 0).any() and not expected[2:].any()
    check_scorer(prepare_label(question, TfIdfLabel()), expected)


def test_tfidf_gradient_is_the_cosine_times_the_product_of_errors_over_all_checkpoints() -> None:
    rng = np.random.default_rng(3)
    made = [(side(rng, len(ROWS), 4, 2)[0], side(rng, len(QUERIES), 4, 2)[0]) for _ in range(3)]
    weights, products = (0.3, 0.05, 0.2), np.zeros((len(QUERIES), len(ROWS)))
    for weight, (rows, queries) in zip(weights, made, strict=True):
        for q in range(len(QUERIES)):
            for x in range(len(ROWS)):
                products[q, x] += weight * sum(queries.errors[q][c] * rows.errors[x][c] for c in range(2))
    parts = [part(*sides, weight=weight, step=3) for weight, sides in zip(weights, made, strict=True)]
    question = text_question(rows_of(ROWS, LABELS), rows_of(QUERIES, ASKED), NUMBER.__getitem__, parts=parts)
    check_scorer(prepare_gradient(question, TfIdfGradient()), cosines(ROWS, QUERIES) * products)


def test_a_corpus_without_any_word_scores_0() -> None:
    question = text_question(rows_of(["!", "?"], ["good", "bad"]), rows_of(["word"], ["good"]), NUMBER.__getitem__)
    scores = np.ones((1, 2), dtype=np.float32)
    prepare_label(question, TfIdfLabel()).score(scores)
    assert not scores.any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A b, c-d don't x_1 3.5!", ["a", "b", "c", "d", "don", "t", "x_1", "3", "5"]),
        ("ÖL und straße", ["öl", "und", "straße"]),
        ("cafe\u0301 ﬁne", ["café", "fine"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा"]),
        ("中文字 ABC買う", ["中", "文", "字", "abc", "買", "う"]),
        ("コーヒー Привет שָׁלוֹם", ["コーヒー", "привет", "שָׁלוֹם"]),
        ("", []),
    ],
)
def test_words_of_any_script(text: str, words: list[str]) -> None:
    assert words_of(text) == [unicodedata.normalize("NFKC", word) for word in words]


def test_both_texts_of_a_pair_and_prompt_and_completion_count() -> None:
    pairs = Corpus.read([{"text": "one", "pair": "two", "label": "good"}], hw.Columns(text_pair="pair"), name="pairs")
    assert words_of(text_of(hw.Classification(pairs=True), pairs[0])) == ["one", "two"]
    columns = hw.Columns(text="prompt", label="completion")
    prompts = Corpus.read([{"prompt": "one", "completion": "two"}], columns, name="prompts")
    assert words_of(text_of(hw.CausalLM(), prompts[0])) == ["one", "two"]
