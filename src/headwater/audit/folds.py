"""What models that never saw a row say of its label: five folds, each asked by a model of the other four.

By the run's own recipe where the time allows; else word and word-pair counts (TF-IDF) and a logistic regression, which
needs seconds. Every fold's model is asked about clean rows as well, so that training rows can be compared with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int64

from headwater.files import atomic_file, digest
from headwater.progress import progress_bar
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets
from headwater.training import predict, retrain

FOLDS = 5
Way = Literal["recipe", "words"]


@dataclass(frozen=True)
class OutOfSample:
    """Class probabilities by models that never saw the row; `clean` holds one table for each fold's model."""

    way: Way
    rows: Float64[np.ndarray, "rows classes"]
    clean: Float64[np.ndarray, "folds clean classes"]


def fold_of(targets: Sequence[int], seed: int) -> Int64[np.ndarray, " rows"]:
    """Assign each row to a fold, every class spread over all of them as evenly as it goes; the seed draws."""
    found = np.zeros(len(targets), dtype=np.int64)
    generator = np.random.default_rng(seed)
    labels, start = np.asarray(targets), 0
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        found[rows] = (start + np.arange(len(rows))) % FOLDS
        start += len(rows)
    return found


def out_of_sample(
    run: Run,
    rows: Sequence[int],
    clean: Corpus | None,
    way: Way,
    *,
    folder: Path | None = None,
    seed: int = 0,
    show: bool | None = None,
) -> OutOfSample:
    """Probabilities [rows, classes] for `rows` of the run's corpus, ascending, and for clean rows.

    `folder` keeps each finished fold, so that a killed audit goes on. Raises RunError where a recipe is missing.
    """
    corpus = run.corpus.take(rows)
    targets = corpus_targets(run.task, corpus, run.checkpoints[-1].config)
    folds = fold_of(targets, seed)
    classes = len(run.label2id)
    found = np.zeros((len(rows), classes))
    asked = np.zeros((FOLDS, 0 if clean is None else len(clean), classes))
    ask = _by_recipe if way == "recipe" else _by_words
    with progress_bar("folds", FOLDS, unit="folds", show=show) as advance:
        for fold in range(FOLDS):
            rest, mine = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            path = None if folder is None else folder / f"{_name(run, corpus, clean, way, seed)}-{fold}.npy"
            if path is not None and path.is_file():
                both = np.load(path, allow_pickle=False)
            else:
                both = ask(run, corpus, rest, mine, clean, targets)
                if path is not None:
                    with atomic_file(path) as temporary, temporary.open("wb") as file:
                        np.save(file, both, allow_pickle=False)
            found[mine], asked[fold] = both[: len(mine)], both[len(mine) :]
            advance(1)
    return OutOfSample(way, found, asked)


def _name(run: Run, corpus: Corpus, clean: Corpus | None, way: Way, seed: int) -> str:
    """What decides the answers of a fold."""
    recipe = "" if way == "words" else str(run.need_recipe().arguments)
    return digest([way, recipe, corpus.fingerprint, "" if clean is None else clean.fingerprint, str(seed)])


def _by_recipe(
    run: Run,
    corpus: Corpus,
    rest: Int64[np.ndarray, " r"],
    mine: Int64[np.ndarray, " m"],
    clean: Corpus | None,
    targets: Sequence[int],
) -> Float[np.ndarray, "m+clean classes"]:
    model = retrain(run, corpus=corpus, rows=rest.tolist(), show=False)
    asked = [corpus.take(mine.tolist()), *([] if clean is None else [clean])]
    told = [predict(model, run.tokenizer, run.task, each, show=False) for each in asked]
    return np.concatenate([each.probabilities.astype(np.float64) for each in told])


def _by_words(
    run: Run,
    corpus: Corpus,
    rest: Int64[np.ndarray, " r"],
    mine: Int64[np.ndarray, " m"],
    clean: Corpus | None,
    targets: Sequence[int],
) -> Float[np.ndarray, "m+clean classes"]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, labels = [_text(corpus, row) for row in range(len(corpus))], np.asarray(targets)
    asked = [texts[row] for row in mine] + ([] if clean is None else [_text(clean, row) for row in range(len(clean))])
    found = np.zeros((len(asked), len(run.label2id)))
    there = np.unique(labels[rest])
    if len(there) == 1:
        found[:, there[0]] = 1
        return found
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000))
    model.fit([texts[row] for row in rest], labels[rest])
    found[:, model.classes_] = model.predict_proba(asked)
    return found


def _text(corpus: Corpus, row: int) -> str:
    example = corpus[row]
    return str(example.text) if example.text_pair is None else f"{example.text} || {example.text_pair}"
