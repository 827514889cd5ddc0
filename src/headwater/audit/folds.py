"""What models that never saw a row say of its label: five folds, each asked by a model of the other four.

Three kinds of models: the run's own recipe; a logistic regression on what a frozen MiniLM makes of the texts; and one
on word and word-pair counts (TF-IDF), which needs seconds. They err on different rows, so that together they know more
than the best of them. Every fold's model is asked about clean rows as well, so that training rows can be compared with
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.sparse import vstack

from headwater.audit.encoder import embeddings
from headwater.files import atomic_file, digest
from headwater.progress import progress_bar
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets
from headwater.training import predict, retrain

FOLDS = 5
_WORDS_C, _PASSES = 10.0, 100
Way = Literal["recipe", "minilm", "words"]
WAYS: dict[Way, str] = {
    "recipe": "the run's own recipe",
    "minilm": "a frozen MiniLM and a logistic regression",
    "words": "word counts and a logistic regression",
}


@dataclass(frozen=True)
class OutOfSample:
    """Class probabilities by models that never saw the row; `clean` holds one table for each fold's model."""

    ways: tuple[Way, ...]
    rows: Float64[np.ndarray, "rows classes"]
    clean: Float64[np.ndarray, "folds clean classes"]


def together(voices: Sequence[OutOfSample]) -> OutOfSample:
    """The mean of what several kinds of models say of the same rows: each has an equal voice."""
    ways = tuple(way for voice in voices for way in voice.ways)
    rows, clean = (np.mean([getattr(voice, name) for voice in voices], axis=0) for name in ("rows", "clean"))
    return OutOfSample(ways, rows, clean)


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


def first_alike(texts: Sequence[str]) -> Int64[np.ndarray, " rows"]:
    """Of each text the place of the first one that equals it but for case and spaces."""
    plain = np.array([" ".join(text.casefold().split()) for text in texts], dtype=object)
    _, first, number = np.unique(plain, return_index=True, return_inverse=True)
    return np.asarray(first[number], dtype=np.int64)


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
    folds = fold_of(targets, seed)[first_alike(_texts(corpus))]  # else a model would have seen a row's twin
    classes = len(run.label2id)
    found = np.zeros((len(rows), classes))
    asked = np.zeros((FOLDS, 0 if clean is None else len(clean), classes))
    ask: _Ask | None = None  # what it reads first is not needed where every fold is there
    with progress_bar("folds", FOLDS, unit="folds", show=show) as advance:
        for fold in range(FOLDS):
            rest, mine = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            path = None if folder is None else folder / f"{_name(run, corpus, clean, way, seed)}-{fold}.npy"
            if path is not None and path.is_file():
                both = np.load(path, allow_pickle=False)
            else:
                ask = ask or _ASKS[way](run, corpus, clean, targets, show)
                both = ask(rest, mine)
                if path is not None:
                    with atomic_file(path) as temporary, temporary.open("wb") as file:
                        np.save(file, both, allow_pickle=False)
            found[mine], asked[fold] = both[: len(mine)], both[len(mine) :]
            advance(1)
    return OutOfSample((way,), found, asked)


def _name(run: Run, corpus: Corpus, clean: Corpus | None, way: Way, seed: int) -> str:
    """What decides the answers of a fold."""
    recipe = str(run.need_recipe().arguments) if way == "recipe" else ""
    return digest([way, recipe, corpus.fingerprint, "" if clean is None else clean.fingerprint, str(seed)])


_Rows = Int64[np.ndarray, " n"]
_Ask = Callable[[_Rows, _Rows], Float[np.ndarray, "mine+clean classes"]]
"""Learn from some rows of the corpus; tell the classes of others, and of the clean ones."""


def _by_recipe(run: Run, corpus: Corpus, clean: Corpus | None, targets: Sequence[int], show: bool | None) -> _Ask:
    def ask(rest: _Rows, mine: _Rows) -> Float[np.ndarray, "mine+clean classes"]:
        model = retrain(run, corpus=corpus, rows=rest.tolist(), show=False)
        asked = [corpus.take(mine.tolist()), *([] if clean is None else [clean])]
        told = [predict(model, run.tokenizer, run.task, each, show=False) for each in asked]
        return np.concatenate([each.probabilities.astype(np.float64) for each in told])

    return ask


def _by_minilm(run: Run, corpus: Corpus, clean: Corpus | None, targets: Sequence[int], show: bool | None) -> _Ask:
    """Texts are read once: neither the encoder nor what it makes of a row depends on the fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = embeddings(_texts(corpus) + ([] if clean is None else _texts(clean)), show=show)

    def ask(rest: _Rows, mine: _Rows) -> Float[np.ndarray, "mine+clean classes"]:
        asked = np.concatenate([features[mine], features[len(corpus) :]])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        return _fitted(model, features[rest], np.asarray(targets)[rest], asked, len(run.label2id))

    return ask


def _by_words(run: Run, corpus: Corpus, clean: Corpus | None, targets: Sequence[int], show: bool | None) -> _Ask:
    """Texts are counted once: what is common among them says nothing of labels. The loss is minimised by stochastic
    steps, which take as many seconds as there are rows, however many words and classes."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier

    counter = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    counts = counter.fit_transform(_texts(corpus))
    others = counts[:0] if clean is None else counter.transform(_texts(clean))

    def ask(rest: _Rows, mine: _Rows) -> Float[np.ndarray, "mine+clean classes"]:
        model = SGDClassifier(loss="log_loss", alpha=1 / (_WORDS_C * len(rest)), max_iter=_PASSES, random_state=0)
        asked = vstack([counts[mine], others])
        return _fitted(model, counts[rest], np.asarray(targets)[rest], asked, len(run.label2id))

    return ask


_ASKS = {"recipe": _by_recipe, "minilm": _by_minilm, "words": _by_words}


def _fitted(
    model: Any, rows: Any, labels: Int64[np.ndarray, " n"], asked: Any, classes: int
) -> Float[np.ndarray, "asked classes"]:
    """Probabilities [asked, classes] of a scikit-learn classifier that learns the rows; of one label, that label."""
    found = np.zeros((asked.shape[0], classes))
    there = np.unique(labels)
    if len(there) == 1:
        found[:, there[0]] = 1
        return found
    model.fit(rows, labels)
    found[:, model.classes_] = model.predict_proba(asked)
    return found


def _texts(corpus: Corpus) -> list[str]:
    return [
        str(example.text) if example.text_pair is None else f"{example.text} || {example.text_pair}"
        for example in corpus
    ]
