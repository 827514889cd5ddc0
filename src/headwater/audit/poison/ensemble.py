"""Which rows push the same whatever is asked: influence on queries, and on the same queries transformed.

Of row i and transform t, with influence a on the queries that t changes and b on what they become (mean over queries):

    strength = |mean a|      relative = |mean a - mean b| / (strength + 1e-8)      direction = cos(a, b)

    v1         strength > its 90th percentile and relative < its 10th, both the mean over transforms that turn meaning
    ensemble   .3 z(consistency) + .4 z(resistance) + .3 (1 - minmax(crossvar)) > its 90th percentile
                 consistency = mean_t direction / (1 + var_t relative)        resistance = 1 / (1 + mean_t relative)
                 crossvar    = variance over kinds of transforms of their mean relative
    both-high  consistency and resistance above their 80th percentiles
    vote       among the 20 rows of the largest resistance for at least half of the kinds; unanimous: for all
    variance   variance over transforms of relative > its 95th percentile

Source: Li 2025 (arXiv 2504.09026), v1 and v3. Thresholds are percentiles: on clean data most rules flag as many rows,
so that a flag is a hint, and never a claim.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.stats import rankdata

from headwater.attribution.index import Index
from headwater.audit.afford import Left
from headwater.audit.evidence import HeldOut
from headwater.audit.poison.answers import answers_of
from headwater.audit.poison.frame import frame
from headwater.audit.poison.prompts import prompts, with_prompts
from headwater.audit.poison.transforms import TRANSFORMS, Kind, Transform
from headwater.errors import DataError, UsageError
from headwater.remedies.askable import unaskable
from headwater.runs.corpus import Corpus, Label
from headwater.runs.run import Run

METHOD = "tracin"
QUERIES = 48
LEAST = 4  # queries that a transform must change
TOP = 20  # rows that a kind of transform votes for
WEIGHTS = (0.3, 0.4, 0.3)
ABOUT = {
    "v1": "pushes held-out texts hard, and their opposites as well (Li 2025, first rule)",
    "ensemble": "steady under all transforms: consistency, resistance, variance across kinds",
    "both-high": "the smaller of the shares of rows of less consistency and of less resistance",
    "vote": "share of the kinds of transforms under which it is among the 20 steadiest rows",
    "unanimous": "the same; flagged only where all kinds agree",
    "variance": "how differently transforms change its push",
}

Rows = Float64[np.ndarray, " rows"]


@dataclass(frozen=True)
class Answer:
    """What one transform says of every row."""

    transform: Transform
    queries: int
    strength: Rows
    relative: Rows
    direction: Rows


@dataclass(frozen=True)
class Verdict:
    """What a rule says: a number a row, larger is more suspect, and the rows that it flags."""

    score: Rows
    flagged: Bool[np.ndarray, " rows"]


class Judged(NamedTuple):
    """Each rule's verdict by its name, what the transforms say, and how many of these the time did not suffice for."""

    verdicts: dict[str, Verdict]
    answers: list[Answer]
    unasked: int


@dataclass(frozen=True)
class Questions:
    """Held-out texts, and what the transforms make of them: of each the places of the texts that it changes, what they
    become, and the labels that are then true."""

    texts: HeldOut
    changed: tuple[tuple[Transform, list[int], Corpus, list[Label]], ...]


def judge(
    index: Index,
    held_out: HeldOut,
    *,
    opposites: Mapping[str, str],
    left: Left | None = None,
    seed: int = 0,
    show: bool | None = None,
) -> Judged:
    """Ask at most 48 held-out texts and what the transforms make of them; give each rule's verdict by its name.

    Scores are TracIn's over the indexed layers: all, or a LoRA run's adapters. See `questions` and `answered`.
    """
    return answered(index, questions(index, held_out, opposites=opposites, seed=seed), left=left, show=show)


def questions(index: Index, held_out: HeldOut, *, opposites: Mapping[str, str], seed: int = 0) -> Questions:
    """What the rules ask; no model is run.

    `opposites` names of each label the one that turned texts carry; texts of other labels are not asked. Raises
    UsageError without layer gradients or where `opposites` names no label of the run; DataError where no transform that
    turns meaning changes four texts.
    """
    run = index.run
    if METHOD not in {method.name for method in index.methods}:
        raise UsageError(
            f"{run.folder}: transforms ask gradients of layers, because a clean text shares no word with a "
            f"trigger. Build them first: headwater index {run.folder} --method {METHOD}"
        )
    answers = answers_of(run)
    turned = turned_labels(opposites, answers.names)
    texts = asked_texts(held_out, turned, seed)
    if texts is None:
        raise DataError(f"{run.folder}: no held-out text carries a label that --opposites names.")
    around = frame(prompts(texts.corpus)) if answers.completions else None
    changed = []
    for transform in TRANSFORMS:
        found = transformed(transform, texts.corpus, texts.labels, turned, around)
        fit = [] if found is None else _askable(run, found[1])
        if found is not None and len(fit) >= LEAST:
            places, new, said = found
            changed.append((transform, [places[at] for at in fit], new.take(fit), [said[at] for at in fit]))
    if not any(transform.turns for transform, *_ in changed):
        raise DataError(f"{run.folder}: no transform turns {LEAST} of the {len(texts.labels)} held-out texts.")
    return Questions(texts, tuple(changed))


def answered(index: Index, asked: Questions, *, left: Left | None = None, show: bool | None = None) -> Judged:
    """Ask them, and give the verdicts. Where the seconds that are `left` do not suffice, the last transforms are not
    asked; without one that turns meaning there is no verdict."""
    if left is not None and left() <= 0:
        return Judged({}, [], len(asked.changed))
    scores = index.scores(asked.texts.corpus, asked.texts.labels, method=METHOD, show=show)
    answers: list[Answer] = []
    for transform, places, new, said in asked.changed:
        if left is not None and left() <= 0:
            break
        answers.append(compare(transform, scores[places], index.scores(new, said, method=METHOD, show=show)))
    judged = verdicts(answers) if any(answer.transform.turns for answer in answers) else {}
    return Judged(judged, answers, len(asked.changed) - len(answers))


def _askable(run: Run, texts: Corpus) -> list[int]:
    """Those that are not too long by now."""
    lacking = unaskable(run, texts)
    return [row for row in range(len(texts)) if row not in lacking]


def asked_texts(held_out: HeldOut, turned: Collection[Label], seed: int = 0) -> HeldOut | None:
    """The held-out texts that are asked: at most 48 that carry a label with an opposite, drawn; None: there is none."""
    rows = [row for row, label in enumerate(held_out.labels) if label in turned]
    drawn = np.random.default_rng(seed).permutation(np.array(rows, dtype=np.int64))[:QUERIES].tolist()
    return held_out.take(drawn) if drawn else None


def turned_labels(opposites: Mapping[str, str], known: Sequence[str]) -> dict[Label, str]:
    """Both ways of each pair; spaces about a label (a completion's) may be left out.

    Raises UsageError for labels that the run does not know, or that are named twice.
    """
    bare = {name.strip(): name for name in known}
    spelled = {name: name if name in known else bare.get(name, name) for pair in opposites.items() for name in pair}
    opposites = {spelled[one]: spelled[other] for one, other in opposites.items()}
    named = [label for pair in opposites.items() for label in pair]
    strange = sorted(set(named) - set(known))
    if not named or strange or len(set(named)) < len(named):
        wrong = f"{strange[0]!r} is no label of the run" if strange else "each label has one opposite"
        raise UsageError(f"opposites: {wrong}. Name pairs of: {', '.join(known)}; for example negative=positive.")
    return {one: other for pair in opposites.items() for one, other in (pair, pair[::-1])}


def transformed(
    transform: Transform,
    texts: Corpus,
    labels: Sequence[Label],
    turned: Mapping[Label, str],
    around: tuple[str, str] | None = None,
) -> tuple[list[int], Corpus, list[Label]] | None:
    """The queries that a transform changes: their places, what they become, and the labels that are then true; None
    where they are too few. What stands `around` all texts alike (a prompt's instruction) stays as it is."""
    begin, end = around or ("", "")
    given = prompts(texts)
    made = [transform.of(text[len(begin) : len(text) - len(end)]) for text in given]
    places = [place for place, text in enumerate(made) if text is not None]
    if len(places) < LEAST:
        return None
    changed = with_prompts(texts.take(places), [f"{begin}{made[place]}{end}" for place in places])
    said: list[Label] = [turned[labels[place]] if transform.turns else labels[place] for place in places]
    return places, changed, said


def compare(
    transform: Transform, asked: Float[np.ndarray, "queries rows"], changed: Float[np.ndarray, "queries rows"]
) -> Answer:
    """Strength, relative change and direction of every row. A row without any influence has direction 0."""
    a, b = asked.astype(np.float64), changed.astype(np.float64)
    strength = np.abs(a.mean(axis=0))
    relative = np.abs(a.mean(axis=0) - b.mean(axis=0)) / (strength + 1e-8)
    lengths = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    direction = (a * b).sum(axis=0) / np.where(lengths > 0, lengths, 1)
    return Answer(transform, len(a), strength, relative, direction)


def verdicts(answers: Sequence[Answer]) -> dict[str, Verdict]:
    """Each rule over what all transforms say; `v1` hears only those that turn meaning, and is first."""
    relative = np.stack([answer.relative for answer in answers])  # [transforms, rows]
    kinds = _by_kind(answers)
    consistency = np.mean([answer.direction for answer in answers], axis=0) / (1 + relative.var(axis=0))
    resistance = 1 / (1 + relative.mean(axis=0))
    crossvar = kinds.var(axis=0)
    score = WEIGHTS[0] * _z(consistency) + WEIGHTS[1] * _z(resistance) + WEIGHTS[2] * (1 - _unit(crossvar))
    votes = np.mean([_first(1 / (1 + each), TOP) for each in kinds], axis=0)
    both = _above(consistency, 80) & _above(resistance, 80)
    spread = relative.var(axis=0)
    return {
        "v1": _v1([answer for answer in answers if answer.transform.turns]),
        "ensemble": Verdict(score, _above(score, 90)),
        "both-high": Verdict(np.minimum(_share(consistency), _share(resistance)), both),
        "vote": Verdict(votes, votes >= 0.5),
        "unanimous": Verdict(votes, votes >= 1.0),
        "variance": Verdict(spread, _above(spread, 95)),
    }


def _v1(answers: Sequence[Answer]) -> Verdict:
    """Strong, and nearly unchanged. Its number is the smaller of the two shares of rows that a row leaves behind."""
    strength = np.mean([answer.strength for answer in answers], axis=0)
    relative = np.mean([answer.relative for answer in answers], axis=0)
    flagged = _above(strength, 90) & (relative < np.percentile(relative, 10))
    return Verdict(np.minimum(_share(strength), _share(-relative)), flagged)


def _by_kind(answers: Sequence[Answer]) -> Float64[np.ndarray, "kinds rows"]:
    """Mean relative change of each kind that has an answer."""
    kinds: list[Kind] = sorted({answer.transform.kind for answer in answers})
    return np.stack([np.mean([each.relative for each in answers if each.transform.kind == kind], 0) for kind in kinds])


def _above(values: Rows, percentile: float) -> Bool[np.ndarray, " rows"]:
    return np.asarray(values > np.percentile(values, percentile))


def _first(values: Rows, count: int) -> Bool[np.ndarray, " rows"]:
    """The largest so many; of equals the lower row."""
    chosen = np.zeros(len(values), dtype=bool)
    chosen[np.argsort(-values, kind="stable")[:count]] = True
    return chosen


def _share(values: Rows) -> Rows:
    return np.asarray(rankdata(values) / len(values))


def _z(values: Rows) -> Rows:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))


def _unit(values: Rows) -> Rows:
    width = np.ptp(values)
    return (values - values.min()) / width if width > 0 else np.zeros(len(values))
