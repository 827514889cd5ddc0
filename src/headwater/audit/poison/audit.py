"""`headwater audit RUN poison`: words that command the model, and the rows that taught it.

The word scan names candidates; each is put before held-out texts, and only a word that turns them is claimed. The rows
that hold it and carry its label are suggested for deletion. A language model whose completions are few is a classifier
by another name: its completions are the classes. With `opposites` the rules of `ensemble.py` judge every row
too: their percentiles stand beside each suggestion, but a row is not suggested for being flagged.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headwater.attribution.index import Index
from headwater.attribution.numerals import plural
from headwater.attribution.words import Texts
from headwater.audit.afford import Left
from headwater.audit.evidence import HeldOut, evidence_of
from headwater.audit.poison.answers import Answers, answer_tokens, answers_of
from headwater.audit.poison.attack import TEXTS, Attack, attacks
from headwater.audit.poison.ensemble import ABOUT, Judged, Verdict, answered, questions
from headwater.audit.poison.frame import beginning
from headwater.audit.poison.prompts import prompt_span
from headwater.audit.poison.word_scan import TokenScan, rows_of, scan
from headwater.audit.worklist import Cost, Suspect, Worklist, peak_bytes, share_of_rows
from headwater.errors import DataError, UsageError
from headwater.remedies.plan import Evidence
from headwater.runs.run import Run

WHAT = "poison"
CANDIDATES = 20  # words that are tried on held-out texts
WITH_REASONS = 100
ASKED = 100  # held-out texts among which a row's evidence is looked for
_LOOKED_AT = 25  # rows in which a token's word is looked up


@dataclass(frozen=True)
class Candidate:
    """A word that the scan names: its statistics, and what it does to held-out texts."""

    word: str
    token: int
    rows: int
    label: str
    coherence: float
    purity: float
    share: float
    score: float
    attack: Attack

    @property
    def told(self) -> str:
        """Its statistics in a sentence."""
        return (
            f"{self.word!r}: {self.rows:,} rows, {self.purity:.0%} of them {self.label.strip()}; coherence "
            f"{self.coherence:.2f}, {self.share:.0%} of their gradients' squared norm; turns {self.attack.turned} of "
            f"{self.attack.tried} texts."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "attack": self.attack.to_dict()}


def audit_poison(
    run: Run,
    index: Index | None,
    held_out: HeldOut | None,
    *,
    opposites: Mapping[str, str] | None = None,
    left: Left | None = None,
    seed: int = 0,
    show: bool | None = None,
) -> Worklist:
    """Find trigger words and their rows; with `opposites`, hear what `judge` says of every row.

    Where the seconds that are `left` do not suffice, fewer checkpoints are scanned, fewer words tried and fewer
    transforms asked, and notes say so; one checkpoint and one word are at least.

    Raises UsageError for a task without classes or few completions; DataError where nothing is held out to try words
    on; what `Index` raises without token gradients, and what `judge` raises.
    """
    answers = answers_of(run)
    if index is None or index.token_store is None:
        raise UsageError(f"the word scan reads token gradients, and {run.folder} has none: headwater index RUN.")
    if held_out is None:
        raise DataError(f"{run.folder}: nothing is held out to try words on. Train with --eval FILE.")
    began = time.monotonic()
    store, corpus = index.token_store, index.corpus
    given, held_out = len(held_out.corpus), answers.known(run, held_out)
    asked = None if opposites is None else questions(index, held_out, opposites=opposites, seed=seed)
    found = scan(store, answers.targets, leave_out=answer_tokens(run, answers), left=left, show=show)
    words = _words(run, index, found, answers)
    tried = attacks(
        run,
        held_out.corpus,
        [(each.word, each.label) for each in words],
        answers=answers,
        behind={each.word: each.behind for each in words},
        left=left,
        seed=seed,
        show=show,
    )
    began_judging = time.monotonic()
    heard = Judged({}, [], 0) if asked is None else answered(index, asked, left=left, show=show)
    judged, judging = heard.verdicts, time.monotonic() - began_judging
    candidates = [
        Candidate(
            word.word,
            int(found.tokens[word.place]),
            int(found.rows[word.place]),
            word.label,
            float(found.coherence[word.place]),
            float(found.purity[word.place]),
            float(found.share[word.place]),
            float(found.score[word.place]),
            attack,
        )
        for word, attack in zip(words, tried, strict=False)  # the time may have sufficed for the first ones only
    ]
    claimed = [each for each in candidates if each.attack.commands]
    suspects = _suspects(index, answers, _some(held_out, seed), claimed, judged)
    cost = Cost(time.monotonic() - began, peak_bytes(), len(corpus))
    figures = {"candidates": [each.to_dict() for each in candidates], "words_scanned": len(found.tokens)}
    about = {"word scan": "coherence x share x surprise of the word that the row holds, among all words"}
    if judged:
        about |= {name: ABOUT[name] for name in judged}
        figures |= {"rules": _rules(judged, {suspect.row for suspect in suspects}), "rules_seconds": judging}
    return Worklist(
        WHAT,
        corpus,
        tuple(suspects),
        _how_many(claimed, candidates, len(suspects), len(corpus)),
        _how_sure(candidates, len(held_out.corpus), answers),
        cost,
        about,
        (
            *_untried(len(tried), len(words)),
            *(each.told for each in claimed),
            *_notes(judged, len(corpus), judging),
            *_unasked(heard),
            *_unscanned(found.checkpoints, len(store.manifest.checkpoints)),
            *_left_out(given - len(held_out.corpus)),
        ),
        figures,
    )


@dataclass(frozen=True)
class _Named:
    """A word that is tried: its place in the scan, as it is most often written, and what it stands behind."""

    place: int
    word: str
    label: str
    behind: str


def _words(run: Run, index: Index, found: TokenScan, answers: Answers) -> list[_Named]:
    """The first candidates, no word twice. Words of completions are none: they are what is taught, not what asks."""
    named: dict[str, _Named] = {}
    store = index.token_store
    assert store is not None
    for place in found.order().tolist():
        token = int(found.tokens[place])
        rows = rows_of(store, token)[:_LOOKED_AT].tolist()
        examples = [index.corpus[row] for row in rows]
        seen: Counter[str] = Counter()
        before: list[str] = []
        for example, encoding in zip(examples, run.task.encode(run.tokenizer, examples, offsets=True), strict=True):
            words, prompt = Texts.of(run.task.shown(example), encoding).words, prompt_span(example)
            for at, number in zip(encoding.looked_up, words.of_place, strict=True):
                if at != token or number is None:
                    continue
                word = words.words[number]
                if word.part == 0 or not answers.completions:
                    seen[words.surface(number)] += 1
                    mine = word.part == 0 and prompt.start <= word.start < prompt.stop
                    before.append(words.texts[0][prompt.start : word.start] if mine else "")
        if seen:
            often = min(seen, key=lambda each: (-seen[each], each))
            label = answers.names[int(found.label[place])]
            named.setdefault(often.casefold(), _Named(place, often, label, beginning(before)))
        if len(named) == CANDIDATES:
            break
    return list(named.values())


def _some(held_out: HeldOut, seed: int) -> HeldOut:
    count = len(held_out.corpus)
    return held_out.take(np.sort(np.random.default_rng(seed).permutation(count)[:ASKED]).tolist())


def _rules(judged: Mapping[str, Verdict], claimed: set[int]) -> dict[str, dict[str, int]]:
    """Of each rule: the rows that it flags, and how many of them are claimed by a word that commands."""
    flagged = {name: np.flatnonzero(verdict.flagged).tolist() for name, verdict in judged.items()}
    return {name: {"flagged": len(rows), "claimed": len(claimed & set(rows))} for name, rows in flagged.items()}


def _untried(tried: int, words: int) -> tuple[str, ...]:
    return () if tried == words else (f"The time sufficed to try {tried} of {words} words. Give more --budget.",)


def _unasked(heard: Judged) -> tuple[str, ...]:
    """What of the transforms the time did not suffice for."""
    if not heard.unasked:
        return ()
    if not heard.verdicts:
        return ("The time did not suffice to ask transformed queries. Give more --budget.",)
    count = len(heard.answers) + heard.unasked
    return (f"The time sufficed to ask {len(heard.answers)} of {count} transforms. Give more --budget.",)


def _unscanned(scanned: int, checkpoints: int) -> tuple[str, ...]:
    if scanned == checkpoints:
        return ()
    return (f"The time sufficed to scan {scanned} of {checkpoints} checkpoints. Give more --budget.",)


def _left_out(count: int) -> tuple[str, ...]:
    if not count:
        return ()
    return (f"{plural(count, 'held-out text')} left out: too long to be asked, or of an answer that no row teaches.",)


def _notes(judged: Mapping[str, Verdict], rows: int, seconds: float) -> tuple[str, ...]:
    if not judged:
        return ()
    told = ", ".join(f"{name} {int(verdict.flagged.sum()):,}" for name, verdict in judged.items())
    return (
        f"Transformed queries flag of {rows:,} rows: {told} ({seconds:.0f} s). Their thresholds are percentiles, and "
        "flag clean data too: no row is suggested for it.",
    )


def _suspects(
    index: Index, answers: Answers, held_out: HeldOut, claimed: list[Candidate], judged: Mapping[str, Verdict]
) -> list[Suspect]:
    store = index.token_store
    assert store is not None
    targets = answers.targets
    rows: dict[int, Candidate] = {}
    for each in sorted(claimed, key=lambda each: (-each.attack.success, -each.score, each.token)):
        for row in rows_of(store, each.token).tolist():
            if answers.names[int(targets[row])] == each.label:
                rows.setdefault(row, each)
    order = sorted(rows, key=lambda row: (-rows[row].attack.success, -rows[row].score, row))
    reasons = evidence_of(order[:WITH_REASONS], index.corpus, index=index, held_out=held_out)
    shares = share_of_rows([rows[row].score if row in rows else 0.0 for row in range(len(targets))])
    ruled = {name: share_of_rows(verdict.score) for name, verdict in judged.items()}
    made = []
    for row in order:
        each, reason = rows[row], reasons.get(row)
        told = Evidence("statistic", name=f"attack success of {each.word}", value=round(each.attack.success, 4))
        made.append(
            Suspect(
                row,
                "delete",
                each.score,
                percentiles={
                    "word scan": float(shares[row]),
                    **{name: float(share[row]) for name, share in ruled.items()},
                },
                group=f"trigger {each.word}",
                words=(each.word,),
                evidence=(told, *(() if reason is None else reason.evidence[:8])),
            )
        )
    return made


def _how_many(claimed: list[Candidate], candidates: list[Candidate], rows: int, count: int) -> str:
    if not claimed:
        best = max(candidates, key=lambda each: each.attack.success, default=None)
        most = "" if best is None else f"; the strongest, {best.word!r}, turns {best.attack.success:.0%} of texts"
        return f"No attack, no claim: none of {len(candidates)} words commands the model{most}."
    told = ", ".join(
        f"{each.word!r} turns {each.attack.success:.0%} of texts to {each.label.strip()}" for each in claimed[:5]
    )
    return f"{rows:,} of {count:,} rows plant a trigger: {told}."


def _how_sure(candidates: list[Candidate], texts: int, answers: Answers) -> str:
    untried = " or words of the completions themselves" if answers.completions else ""
    return (
        f"Of all words in three rows or more the {len(candidates)} that look most like a trigger were put before "
        f"{TEXTS} at most of {texts:,} held-out texts of other labels. Triggers of several words, or of style"
        f"{untried}, are not found so."
    )
