"""Word deletion: which words each method names, which edited texts must be trained on, and the columns.

A method names words in the rows that its answer shows. Its control cuts as many random words out of the rows that it
cuts words out of itself, query by query: one draw, since each needs a retraining of its own.

DIR/words/NAME.json     the words of one method: [[row, part, start, end, score], ...] a query
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from headwater.attribution.words import Word
from headwater.errors import HeadwaterError, UsageError
from headwater.evaluation.candidates import CONTROL, Candidate
from headwater.evaluation.columns import Column, Graded, graded, result
from headwater.evaluation.metrics import deletion
from headwater.evaluation.metrics.bootstrap import Interval, difference
from headwater.evaluation.metrics.word_deletion import Edit, RowWord, plan, random_words, words_of
from headwater.evaluation.numbers import counted
from headwater.evaluation.plan import Removals
from headwater.evaluation.removals import Curves, Seen, bands, measured, said_seeds
from headwater.evaluation.scoring import Asked, Scored
from headwater.evaluation.settings import EvaluateSettings
from headwater.files import canonical_json, digest, read_json, write_json
from headwater.methods import get_method
from headwater.runs.conversation import is_conversation_type

NAME = "word-deletion"
Named = list[dict[RowWord, float]]
Curve = Float64[np.ndarray, "queries counts"]
_WITHOUT: Edit = ()


@dataclass(frozen=True)
class Cuts:
    """The edits of one method: its own words, and the control's, for each query and each count of words."""

    own: list[list[Edit]]
    control: list[list[Edit]]
    """Of a query for which the method names no word, both hold the empty edit."""

    def unit(self, query: int) -> list[Edit]:
        """All edits that grading one query needs."""
        return [edit for edit in (*self.own[query], *self.control[query]) if edit]


def gives_words(candidate: Candidate) -> bool:
    """Whether a method's scores fall to words."""
    return candidate.method is not None and not get_method(candidate.method).words.startswith("none")


def check_words(asked: Asked, candidates: Sequence[Candidate]) -> None:
    """Raises UsageError where no method gives words, or the texts have none to cut."""
    corpus = asked.run.corpus
    if is_conversation_type(corpus.table.schema.field(corpus.columns.text).type):
        raise UsageError(f"{NAME}: words can be cut out of columns of text, not out of conversations.")
    if not any(gives_words(candidate) for candidate in candidates):
        raise UsageError(f"{NAME}: none of these methods gives words. See `headwater methods`.")


def all_cuts(asked: Asked, scored: Sequence[Scored], settings: EvaluateSettings) -> dict[str, Cuts]:
    """By method, what must be cut; the same for the same scores. Raises what Index.query raises."""
    return {
        one.candidate.label: _cuts(asked, _kept_words(asked, one, settings), settings)
        for one in scored
        if gives_words(one.candidate)
    }


def word_sets(cuts: Mapping[str, Cuts], queries: int) -> Removals[Edit]:
    """The uncut corpus in any case, then every method's edits of each query."""
    units = [tuple(dict.fromkeys(edit for one in cuts.values() for edit in one.unit(q))) for q in range(queries)]
    return Removals((_WITHOUT,), tuple(units))


def word_columns(
    scored: Sequence[Scored], cuts: Mapping[str, Cuts], seen: Seen, queries: int, settings: EvaluateSettings
) -> tuple[list[Graded], Curves]:
    """WORD-DEL of the first `queries` queries: areas, areas beyond the control, and curves."""
    made: list[Graded] = []
    drawn: Curves = {}
    for name, values in measured(seen.found).items():
        baseline = seen.of(_WITHOUT, values)[:, :queries].mean(axis=0, dtype=np.float64)
        own = {label: _curve(one.own, seen, values, baseline, queries) for label, one in cuts.items()}
        control = {label: _curve(one.control, seen, values, baseline, queries) for label, one in cuts.items()}
        column = _column(name, queries, settings)
        made += _columns(column, scored, own, control, settings)
        drawn[column.name] = bands(settings.words, own, _mean(control), settings)
    return made, drawn


def _column(name: str, queries: int, settings: EvaluateSettings) -> Column:
    points = ", ".join(f"{count:,}" for count in settings.words)
    protocol = (
        f"{points} words (or all that it names) cut out of the rows that the method shows (top and bottom "
        f"{settings.k}), {said_seeds(settings)}, {counted(queries, 'query')}; control: as many random words of the "
        "same rows, one draw"
    )
    about = f"change of the {name} after retraining without the words of highest score, mean over the counts"
    return Column(f"word-del {name}", NAME, "lower", protocol, about)


def _columns(
    column: Column,
    scored: Sequence[Scored],
    own: Mapping[str, Curve],
    control: Mapping[str, Curve],
    settings: EvaluateSettings,
) -> list[Graded]:
    curves = {**own, CONTROL: _mean(control)}
    known = [one for one in scored if one.candidate.label in curves]
    plain = graded(column, known, lambda one: deletion.auc(curves[one.candidate.label]), seed=settings.seed)
    cells = {each.method: each for each in plain.results}
    for label, curve in own.items():
        if np.isnan(curve).all():
            note = "It names no words here: its layers see the text as a whole."
            cells[label] = replace(cells[label], notes=(note,))
    if CONTROL in cells:
        note = "The control: random words of the rows that the methods cut words out of, mean over methods."
        cells[CONTROL] = replace(cells[CONTROL], notes=(*cells[CONTROL].notes, note))
    none = Interval(np.nan, np.nan, np.nan, 0)
    results = [
        cells.get(one.candidate.label) or result(column, one, none, ["Its scores are of whole texts: no words."])
        for one in scored
    ]
    beyond = replace(
        column, name=f"{column.name} vs random", about=f"{column.about}, beyond that of as many random words"
    )
    against = [
        result(beyond, one, difference(deletion.auc(own[label]), deletion.auc(control[label]), seed=settings.seed))
        for one in known
        if (label := one.candidate.label) in own
    ]
    return [Graded(column, tuple(results), plain.values), Graded(beyond, tuple(against))]


def _curve(
    edits: Sequence[Sequence[Edit]],
    seen: Seen,
    values: Float32[np.ndarray, "sets seeds queries"],
    baseline: Float64[np.ndarray, " queries"],
    queries: int,
) -> Curve:
    """NaN for a query for which the method names no word."""
    made = np.full((queries, len(edits[0])), np.nan)
    for query in range(queries):
        for point, edit in enumerate(edits[query]):
            if edit:
                made[query, point] = seen.of(edit, values)[:, query].mean(dtype=np.float64) - baseline[query]
    return made


def _mean(curves: Mapping[str, Curve]) -> Curve:
    """Over methods; a query that some method lacks has the mean of the others."""
    found = np.stack(list(curves.values()))
    there = ~np.isnan(found)
    return np.asarray(np.where(there.any(axis=0), np.nansum(found, axis=0) / np.maximum(there.sum(axis=0), 1), np.nan))


def _cuts(asked: Asked, named: Named, settings: EvaluateSettings) -> Cuts:
    corpus = asked.run.corpus
    made = plan(named, corpus, counts=settings.words, seed=settings.seed)
    own = [[made.edits[number] for number in row] for row in made.of]
    control = []
    for edits in own:
        sizes = sorted({len(edit) for edit in edits if edit})
        if not sizes:
            control.append([_WITHOUT for _ in edits])
            continue
        words = random_words(asked.run, [item.row for item in edits[-1]], seed=settings.seed)
        drawn = plan([words], corpus, counts=sizes, seed=settings.seed)
        by_size = {size: drawn.edits[number] for size, number in zip(sizes, drawn.of[0], strict=True)}
        control.append([by_size[len(edit)] for edit in edits])
    return Cuts(own, control)


def _kept_words(asked: Asked, one: Scored, settings: EvaluateSettings) -> Named:
    """What was found before is taken from DIR/words."""
    key = digest([asked.key, one.key, one.candidate.identity, canonical_json([settings.k])])
    path = asked.folder / "words" / f"{one.candidate.slug}.json"
    try:
        told = read_json(path) if path.is_file() else {}
        if told.get("key") == key:
            return [
                {RowWord(row, Word(start, end, part)): score for row, part, start, end, score in query}
                for query in told["words"]
            ]
    except (HeadwaterError, KeyError, TypeError, ValueError, AttributeError):
        pass  # damaged: asked again
    found = _asked_words(asked, one.candidate, settings)
    packed: list[list[Any]] = [
        [[item.row, item.word.part, item.word.start, item.word.end, score] for item, score in sorted(query.items())]
        for query in found
    ]
    write_json(path, {"key": key, "words": packed})
    return found


def _asked_words(asked: Asked, candidate: Candidate, settings: EvaluateSettings) -> Named:
    index = asked.index(candidate)
    labels = None if asked.labels is None else list(asked.labels)
    answers = index.query(
        asked.queries, labels, settings.k, method=str(candidate.method), show=False, **candidate.options
    )
    return [words_of(answer) for answer in answers]
