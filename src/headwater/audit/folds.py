"""What models that never saw a row say of its label: five folds, each asked by a model of the other four.

Three kinds of models: the run's own recipe; a logistic regression on what a frozen MiniLM makes of the texts; and one
on word and word-pair counts (TF-IDF), which needs seconds. They err on different rows, so that together they know more
than the best of them. Every fold's model is asked about clean rows as well, so that training rows can be compared with
them; nobody is judged by a model that saw the same text elsewhere.
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
from headwater.errors import DataError
from headwater.files import atomic_file, digest
from headwater.progress import progress_bar
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets
from headwater.training import predict, retrain

FOLDS = 5
_VERSION = "2"  # of what is kept of a fold
_WORDS_C, _PASSES = 10.0, 100
Way = Literal["recipe", "minilm", "words"]
WAYS: dict[Way, str] = {
    "recipe": "the run's own recipe",
    "minilm": "a frozen MiniLM and a logistic regression",
    "words": "word counts and a logistic regression",
}


@dataclass(frozen=True)
class OutOfSample:
    """Class probabilities by models that never saw the row's text; `clean` holds one table for each fold's model.

    Of a clean row whose text is a training row's, too, every table holds what the one model says that did not see it.
    """

    ways: tuple[Way, ...]
    rows: Float64[np.ndarray, "rows classes"]
    clean: Float64[np.ndarray, "folds clean classes"]
    alike: Int64[np.ndarray, " rows+clean"]
    """A number for the text of each row, and then of each clean one: equal where the texts are."""

    def by_text(self, rows: Float[np.ndarray, " rows"]) -> Float64[np.ndarray, " texts"]:
        """The mean of something over the rows of each text: texts that stand there often have one voice, too."""
        return _mean_by(self.alike[: len(self.rows)], rows)

    def clean_by_text(self, clean: Float[np.ndarray, " clean"]) -> Float64[np.ndarray, " texts"]:
        """The same over clean rows."""
        return _mean_by(self.alike[len(self.rows) :], clean)

    def take(self, rows: Int64[np.ndarray, " some"]) -> OutOfSample:
        """The same of some of the rows."""
        clean = self.alike[len(self.rows) :]
        return OutOfSample(self.ways, self.rows[rows], self.clean, np.concatenate([self.alike[rows], clean]))


def together(voices: Sequence[OutOfSample]) -> OutOfSample:
    """The mean of what several kinds of models say of the same rows: each has an equal voice."""
    ways = tuple(way for voice in voices for way in voice.ways)
    rows, clean = (np.mean([getattr(voice, name) for voice in voices], axis=0) for name in ("rows", "clean"))
    return OutOfSample(ways, rows, clean, voices[0].alike)


def _mean_by(alike: Int64[np.ndarray, " n"], values: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " texts"]:
    _, number = np.unique(alike, return_inverse=True)
    return np.asarray(np.bincount(number, weights=values) / np.bincount(number))


def fold_of(targets: Sequence[int], alike: Int64[np.ndarray, " rows"], seed: int) -> Int64[np.ndarray, " rows"]:
    """Assign each row to a fold, the texts of every class spread over all of them as evenly as it goes; the seed draws.

    Rows that are `alike` (see `first_alike`) stand in one fold, with the class of the first of them: else a model would
    have seen a row's twin. Only where a class is one text throughout are its rows dealt out singly: no model could know
    the class otherwise.
    """
    found = np.full(len(targets), -1, dtype=np.int64)
    generator = np.random.default_rng(seed)
    labels, start = np.asarray(targets), 0
    firsts = alike == np.arange(len(alike))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        one_text = (alike[rows] == rows[0]).all()
        dealt = rows if one_text else rows[firsts[rows]]
        found[generator.permutation(dealt)] = (start + np.arange(len(dealt))) % FOLDS
        start += len(dealt)
    return np.where(found < 0, found[alike], found)


def first_alike(texts: Sequence[str]) -> Int64[np.ndarray, " rows"]:
    """Of each text the place of the first one that equals it but for case and spaces."""
    firsts: dict[str, int] = {}
    plain = (" ".join(text.casefold().split()) for text in texts)
    return np.array([firsts.setdefault(text, place) for place, text in enumerate(plain)], dtype=np.int64)


def texts_of(corpus: Corpus) -> list[str]:
    """What models of texts alone read of each row: of a pair both texts."""
    return [
        str(example.text) if example.text_pair is None else f"{example.text} || {example.text_pair}"
        for example in corpus
    ]


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

    `folder` keeps each finished fold, so that a killed audit goes on. Raises RunError where a recipe is missing,
    DataError where there are fewer texts than folds.
    """
    corpus = run.corpus.take(rows)
    targets = corpus_targets(run.task, corpus, run.checkpoints[-1].config)
    alike = first_alike(texts_of(corpus) + ([] if clean is None else texts_of(clean)))
    texts = len(np.unique(alike[: len(rows)]))
    if texts < FOLDS:
        raise DataError(f"{corpus.name}: {len(rows):,} rows hold {texts} different texts, too few for {FOLDS} folds.")
    folds = fold_of(targets, alike[: len(rows)], seed)
    classes = len(run.label2id)
    found = np.zeros((len(rows), classes))
    asked = np.zeros((FOLDS, 0 if clean is None else len(clean), classes))
    ask: _Ask | None = None  # what it reads first is not needed where every fold is there
    name = "" if folder is None else _name(run, corpus, clean, way, folds)
    with progress_bar("folds", FOLDS, unit="folds", show=show) as advance:
        for fold in range(FOLDS):
            rest, mine = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            path = None if folder is None else folder / f"{name}-{fold}.npy"
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
    seen = np.flatnonzero(alike[len(rows) :] < len(rows))  # clean rows whose text is a training row's, too
    asked[:, seen] = asked[folds[alike[len(rows) + seen]], seen]
    return OutOfSample((way,), found, asked, alike)


def _name(run: Run, corpus: Corpus, clean: Corpus | None, way: Way, folds: Int64[np.ndarray, " rows"]) -> str:
    """What decides the answers of all folds."""
    recipe = str(run.need_recipe().arguments) if way == "recipe" else ""
    others = "" if clean is None else clean.fingerprint
    return digest([_VERSION, way, recipe, corpus.fingerprint, others, "".join(map(str, folds))])


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

    features = embeddings(texts_of(corpus) + ([] if clean is None else texts_of(clean)), show=show)

    def ask(rest: _Rows, mine: _Rows) -> Float[np.ndarray, "mine+clean classes"]:
        asked = np.concatenate([features[mine], features[len(corpus) :]])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        return _fitted(model, features[rest], np.asarray(targets)[rest], asked, len(run.label2id))

    return ask


def _by_words(run: Run, corpus: Corpus, clean: Corpus | None, targets: Sequence[int], show: bool | None) -> _Ask:
    """Texts are counted once: what is common among them says nothing of labels. Clean ones are counted with them: words
    that no other row holds must weigh as much there. The loss is minimised by stochastic steps, which take as many
    seconds as there are rows, however many words and classes."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier

    counter = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    counts = counter.fit_transform(texts_of(corpus) + ([] if clean is None else texts_of(clean)))

    def ask(rest: _Rows, mine: _Rows) -> Float[np.ndarray, "mine+clean classes"]:
        model = SGDClassifier(loss="log_loss", alpha=1 / (_WORDS_C * len(rest)), max_iter=_PASSES, random_state=0)
        asked = vstack([counts[mine], counts[len(corpus) :]])
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
