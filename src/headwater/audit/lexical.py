"""`headwater audit RUN lexical-bias`: words that give labels away, weights that undo it, and whether the model minds.

The weights are suggestions of the plan, all rows together: part of them balances nothing. Whether a model that was
trained with them has lost the habit is asked by auditing that run in turn: RUN2's own weights count.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from jaxtyping import Float64

from headwater.attribution.index import Index
from headwater.attribution.numerals import plural
from headwater.audit.afford import Left
from headwater.audit.lexical_bias import WORD, Features, bias_of, features_of, model_habits
from headwater.audit.reweighting import FLOOR, Reweighting, reweigh
from headwater.audit.teachers import teachers
from headwater.audit.worklist import Cost, Suspect, Worklist, peak_bytes
from headwater.errors import UsageError
from headwater.remedies.plan import Evidence
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets, text_task
from headwater.training import predict

WHAT = "lexical-bias"
WORDS = 50  # biased words that are told, and asked of the model
_SAME = 0.005  # weights so near to 1 stay as they are


def audit_lexical(
    run: Run,
    held_out: Corpus | None,
    *,
    index: Index | None = None,
    pairs: bool = True,
    floor: float = FLOOR,
    left: Left | None = None,
    seed: int = 0,
    show: bool | None = None,
) -> Worklist:
    """Find words that give labels away, and weights that undo it. Of text pairs the second text counts.

    With an `index` of token gradients the model's habits are followed to the rows that teach them. `left` says how many
    seconds there are; None: enough.

    Raises UsageError for a task without classes, and as `reweigh` does.
    """
    if text_task(run.task) is not None:
        raise UsageError(f"lexical-bias needs classes; the task of {run.folder} is {run.task.kind}.")
    began = time.monotonic()
    corpus, targets = run.corpus, np.asarray(run.targets, dtype=np.int64)
    features = features_of(_texts(corpus), pairs=pairs)
    given = corpus.weights
    now = bias_of(features, targets, None if given is None else np.asarray(given))
    made = reweigh(features, targets, floor=floor, left=left) if now.biased else None
    words = _words(run, features, now.z, now.threshold, made)
    habits = [] if held_out is None else asked_of(run, words, held_out, seed=seed, show=show)
    taught: list[dict[str, Any]] = []
    unfollowed = 0
    if index is not None and index.token_store is not None and held_out is not None:
        taught, unfollowed = teachers(index, held_out, habits, left=left, show=show)
    suspects = [] if made is None else _suspects(corpus, features, targets, made, taught)
    stubborn = [each for each in words if each.get("stays")]
    figures: dict[str, Any] = {
        "features": len(features.names),
        "threshold": now.threshold,
        "biased": now.biased,
        "discovered": now.discovered,
        "biased_after": None if made is None else made.after.biased,
        "effective_share": None if made is None else made.effective,
        "largest_weight": None if made is None else float(made.weights.max()),
        "words": words,
        "model": habits,
        "habits": sum(each["p"] < 0.05 for each in habits),
        "teachers": taught,
    }
    notes = [] if held_out is not None else ["The run kept no evaluation rows, so the model was not asked."]
    if made is not None and made.cut:
        notes.append("The time did not suffice to balance more words. Give more --budget.")
    notes += [_told(each) for each in taught if each["rows"]]
    if unfollowed:
        notes.append(f"{plural(unfollowed, 'habit')} could not be followed to rows in time. Give more --budget.")
    if stubborn and made is not None and not made.cut:  # where the time was over, the floor is not what holds them
        told = ", ".join(f"{each['word']} ({each['label']})" for each in stubborn[:8])
        notes.append(f"These cannot be balanced at this floor of {floor:g}: {told}.")
    cost = Cost(time.monotonic() - began, peak_bytes(), len(corpus))
    return Worklist(
        WHAT,
        corpus,
        tuple(suspects),
        _how_many(len(features.names), now.biased, now.discovered, words),
        _how_sure(made, habits),
        cost,
        {},
        tuple(notes),
        figures,
    )


def _texts(corpus: Corpus) -> list[str]:
    column = corpus.columns.text if corpus.columns.text_pair is None else corpus.columns.text_pair
    return [str(text) for text in corpus.table.column(column).to_pylist()]


def _words(
    run: Run, features: Features, z: Float64[np.ndarray, "features labels"], threshold: float, made: Reweighting | None
) -> list[dict[str, Any]]:
    """The most biased (word, label), strongest first, with z before and under the weights."""
    order = np.argsort(-np.abs(z), axis=None, kind="stable")[: 4 * WORDS]
    rows = np.asarray(features.held.sum(axis=0)).ravel()
    found: list[dict[str, Any]] = []
    for flat in order:
        feature, label = (int(each) for each in np.unravel_index(flat, z.shape))
        if abs(z[feature, label]) <= threshold or len(found) == WORDS:
            break
        after = None if made is None else float(made.after.z[feature, label])
        found.append(
            {
                "word": features.names[feature],
                "label": run.id2label[label],
                "rows": int(rows[feature]),
                "z": float(z[feature, label]),
                "z_after": after,
                "stays": made is not None and after is not None and abs(after) > made.after.threshold,
            }
        )
    return found


def asked_of(
    run: Run, words: list[dict[str, Any]], held_out: Corpus, *, seed: int = 0, show: bool | None = None
) -> list[dict[str, Any]]:
    """Ask the model about the words: does it say the label more where the word stands, whatever the true label is?"""
    if not words:
        return []
    from sklearn.feature_extraction.text import CountVectorizer

    model = run.checkpoints[-1].load()
    told = predict(model, run.tokenizer, run.task, held_out, show=show)
    counter = CountVectorizer(
        token_pattern=WORD,
        ngram_range=(1, 2),
        binary=True,
        vocabulary=[each["word"] for each in _once(words)],
    )
    place = {each["word"]: number for number, each in enumerate(_once(words))}
    held = counter.fit_transform(_texts(held_out))
    wanted = [(place[each["word"]], run.label2id[each["label"]]) for each in words]
    truth = np.asarray(corpus_targets(run.task, held_out, model.config), dtype=np.int64)
    habits, chances = model_habits(held, wanted, told.probabilities.astype(np.float64), truth, seed=seed)
    rows = np.asarray(held.sum(axis=0)).ravel()
    return [
        {
            "word": each["word"],
            "label": each["label"],
            "rows": int(rows[place[each["word"]]]),
            "habit": float(habit),
            "p": float(chance),
        }
        for each, habit, chance in zip(words, habits, chances, strict=True)
    ]


def _once(words: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first entry of each word."""
    found: dict[str, dict[str, Any]] = {}
    for each in words:
        found.setdefault(each["word"], each)
    return list(found.values())


def _told(habit: dict[str, Any]) -> str:
    """One sentence about the rows that teach a habit."""
    rows = ", ".join(f"{each['row']:,} ({each['share']:.0%})" for each in habit["rows"])
    return f"The habit {habit['word']!r} for {habit['label']} is taught most by the rows {rows} of all push toward it."


def _suspects(
    corpus: Corpus, features: Features, targets: np.ndarray, made: Reweighting, taught: list[dict[str, Any]]
) -> list[Suspect]:
    """A weight for each row that does not stay near 1; the farthest from 1 first, told with its most biased words."""
    evidence: dict[int, list[Evidence]] = {}
    for habit in taught:
        for each in habit["rows"]:
            reason = Evidence("word", train_word=habit["word"], label=habit["label"], value=each["push"])
            evidence.setdefault(each["row"], []).append(reason)
    weights = np.round(made.weights, 4)
    rows = np.flatnonzero(np.abs(weights - 1) > _SAME)
    order = rows[np.argsort(-np.abs(weights[rows] - 1), kind="stable")]
    suspects = []
    for row in order.tolist():
        held = features.held.indices[features.held.indptr[row] : features.held.indptr[row + 1]]
        z = made.before.z[held, targets[row]]
        strongest = held[np.argsort(-np.abs(z), kind="stable")][:3]
        words = tuple(
            features.names[each] for each in strongest if abs(made.before.z[each, targets[row]]) > made.before.threshold
        )
        suspects.append(
            Suspect(
                row,
                "weight",
                float(abs(weights[row] - 1)),
                weight=float(weights[row]),
                words=words,
                evidence=tuple(evidence.get(row, ())),
            )
        )
    return suspects


def _how_many(features: int, biased: int, discovered: int, words: list[dict[str, Any]]) -> str:
    if not biased:
        return f"None of {features:,} words and pairs of words gives a label away."
    told = ", ".join(f"{each['word']!r} {'for' if each['z'] > 0 else 'against'} {each['label']}" for each in words[:4])
    return f"{biased:,} (word, label) give a label away ({discovered:,} by Benjamini-Hochberg): {told}."


def _how_sure(made: Reweighting | None, habits: list[dict[str, Any]]) -> str:
    parts = []
    if made is not None:
        parts.append(
            f"With these weights {made.after.biased:,} of {made.before.biased:,} remain; the rows then count as "
            f"{made.effective:.0%} of their number, the largest weight is {made.weights.max():.2f}."
        )
    if habits:
        shown = sum(each["p"] < 0.05 for each in habits)
        parts.append(f"The model has the habit of {shown} of the first {len(habits)}, whatever the true label is.")
    return " ".join(parts) or "Every word and label was tested, at 1% over all of them together."
