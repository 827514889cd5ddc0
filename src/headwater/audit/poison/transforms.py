"""Texts said otherwise, by rules: what an honest row's influence follows, and a trigger's does not.

    lexical      negation-prefix   "it is not true that" before the text        turns the meaning
                 antonyms          words of praise and blame for each other     turns it
                 synonyms          words for others of the same meaning         keeps it
    semantic     paraphrase        contractions in full, after a frame          keeps it
                 question          a question that denies the text              turns it
    structural   negated-verb      the first auxiliary gains or loses its "not" turns it
                 clause-order      the clauses about the first comma swapped    keeps it

English. A rule that finds nothing to change in a text gives None, and the text is no query of it. Source: kinds of
transforms of Li 2025 (arXiv 2504.09026); rules and word lists are ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["lexical", "semantic", "structural"]

_ANTONYMS = (
    "good bad|best worst|better worse|great terrible|wonderful awful|excellent poor|love hate|loves hates|loved hated|"
    "funny unfunny|interesting boring|exciting dull|beautiful ugly|brilliant stupid|smart dumb|fresh stale|"
    "original derivative|strong weak|success failure|succeeds fails|enjoyable unpleasant|delightful dreadful|"
    "charming annoying|clever silly|rich thin|warm cold|happy sad|fun tedious|perfect flawed|powerful feeble|"
    "compelling uninvolving|always never|everything nothing|easy difficult|right wrong|true false"
)
_SYNONYMS = (
    "movie film|movies films|funny amusing|sad sorrowful|big large|small little|smart intelligent|dull tedious|"
    "begin start|story tale|stories tales|performance portrayal|performances portrayals|scary frightening|"
    "often frequently|quickly rapidly|director filmmaker|audience viewers|nearly almost|"
    "entire whole|shows displays|attempt try|"
    "child kid|children kids|hard tough|enough sufficiently|sometimes occasionally|beautiful lovely|terrible dreadful"
)
_CONTRACTIONS = {"'re": " are", "'ve": " have", "'ll": " will", "'m": " am"}
_AUXILIARY = (
    r"\b(is|are|was|were|has|have|had|does|do|did|can|could|will|would|should|must|might)(\s+not\b|\s*n['’]t\b)?"
)
_IRREGULAR = {"can't": "can not", "won't": "will not", "ca n't": "can not", "wo n't": "will not"}
_CLAUSES = re.compile(r"^(?P<first>[^,;]+?)(?P<between>\s*[,;]\s+(?:and\s+)?)(?P<second>.+?)(?P<end>\s*[.!?]*)$", re.S)
_LEAST_WORDS = 2  # of a clause


@dataclass(frozen=True)
class Transform:
    """A rule: what becomes of a text (None: nothing to change), and whether its meaning is turned."""

    name: str
    kind: Kind
    turns: bool
    of: Callable[[str], str | None]


def _both_ways(pairs: str) -> dict[str, str]:
    split = [pair.split() for pair in pairs.split("|")]
    return {pair[side]: pair[1 - side] for pair in split for side in (0, 1)}


def _swapped(text: str, words: Mapping[str, str]) -> str | None:
    """Put every known word's other in its place, capitals as they were."""

    def other(found: re.Match[str]) -> str:
        word = found.group()
        made = words.get(word.lower(), word)
        return made.capitalize() if word[0].isupper() else made

    made = re.sub(r"[A-Za-z]+", other, text)
    return None if made == text else made


def _stripped(text: str) -> str:
    return re.sub(r"\s*[.!?]+\s*$", "", text.strip())


def negation_prefix(text: str) -> str | None:
    """Deny the text as a whole."""
    return f"it is not true that {text.strip()}" if text.strip() else None


def antonyms(text: str) -> str | None:
    """Turn words of praise into words of blame, and back."""
    return _swapped(text, _both_ways(_ANTONYMS))


def synonyms(text: str) -> str | None:
    """Say known words otherwise."""
    return _swapped(text, _both_ways(_SYNONYMS))


def paraphrase(text: str) -> str | None:
    """Say the text again, contractions in full."""
    made = text.strip()
    for short, long in _CONTRACTIONS.items():
        made = re.sub(rf"\s*{short}\b", long, made)
    return f"to put it another way , {made}" if made else None


def question(text: str) -> str | None:
    """Ask who would say so: nobody."""
    made = _stripped(text)
    return f"who would ever say that {made} ? nobody ." if made else None


def negated_verb(text: str) -> str | None:
    """Give the first auxiliary a "not", or take it away."""
    plain = text
    for short, long in _IRREGULAR.items():
        plain = re.sub(rf"\b{short}\b", long, plain, flags=re.I)
    found = re.search(_AUXILIARY, plain, re.I)
    if found is None:
        return None
    verb = found.group(1) if found.group(2) else f"{found.group(1)} not"
    return plain[: found.start()] + verb + plain[found.end() :]


def clause_order(text: str) -> str | None:
    """Swap what stands about the first comma or semicolon, where both are two words or more."""
    found = _CLAUSES.match(text.strip())
    if found is None or min(len(found[name].split()) for name in ("first", "second")) < _LEAST_WORDS:
        return None
    return f"{found['second']}{found['between']}{found['first']}{found['end']}"


TRANSFORMS = (
    Transform("negation-prefix", "lexical", True, negation_prefix),
    Transform("antonyms", "lexical", True, antonyms),
    Transform("synonyms", "lexical", False, synonyms),
    Transform("paraphrase", "semantic", False, paraphrase),
    Transform("question", "semantic", True, question),
    Transform("negated-verb", "structural", True, negated_verb),
    Transform("clause-order", "structural", False, clause_order),
)
