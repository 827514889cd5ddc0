"""What an answer says of itself: by which method, of which run; and what a reader would otherwise misread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from headwater.attribution.attributions import Attribution, Influence
from headwater.attribution.members import Member
from headwater.attribution.queries import Query
from headwater.attribution.question import AskedQuestion
from headwater.attribution.words import Texts
from headwater.methods import NO_TOKEN, Contributions
from headwater.store import Touched

_NAMED = 20  # words that no row pushed through


def answer_facts(
    members: Sequence[Member], method: str, options: Any, question: AskedQuestion, k: int, items: Sequence[Attribution]
) -> dict[str, Any]:
    """Say by which method, with which options, and of which run an answer is; `question` is its last block."""
    run, used = members[0].run, question.used or members[0].stored_checkpoints
    shown = {**asdict(options), "checkpoints": [checkpoint.name for checkpoint in used]}
    if question.used_layers is not None:
        shown["layers"] = question.used_layers
    return {
        "method": method,
        "options": {**shown, "k": k},
        "lists": len(items),
        "search": _search_facts(items),
        "run": {
            "name": run.folder.resolve().name,
            "rows": len(run.corpus),
            "task": run.task.kind,
            "labels": list(run.label2id),
            "checkpoints": [
                {"name": checkpoint.name, "step": checkpoint.step, "weight": checkpoint.weight} for checkpoint in used
            ],
            "model": str((run.checkpoints[-1].config.architectures or ["?"])[0]),
            "seeds": len(members),
            "warnings": [*run.warnings, *(_lossy(members) if question.method.need == "tokens" else ())],
        },
    }


def _lossy(members: Sequence[Member]) -> list[str]:
    """Say what of its token gradients an index left out beyond float16's rounding, or nothing."""
    manifests = [member.tokens.manifest for member in members if member.tokens is not None]
    told = []
    if any(manifest.dtype == "int8" for manifest in manifests):
        told.append("keeps the numbers of a gradient to 1/127 of its largest (int8)")
    if any(manifest.dtype == "int4" for manifest in manifests):
        told.append("keeps the numbers of a gradient to one of 16 steps (int4)")
    shares = [manifest.energy for manifest in manifests if manifest.energy is not None]
    if shares:
        told.append(f"leaves the weakest gradients out, {1 - min(shares):.3g} of all squared norms (energy)")
    return [f"Scores are approximate: the index {' and '.join(told)}."] if told else []


def _search_facts(items: Sequence[Attribution]) -> dict[str, Any]:
    """Say how many queries were answered by a pruned search, and what these read of what a full scan would."""
    touched = [item.touched for item in items if item.touched is not None]
    return {"pruned": len(touched), **(Touched.total(touched).to_dict() if touched else {})}


def notes_of(
    question: AskedQuestion,
    query: Query,
    any_shared: bool,
    taken: Contributions,
    proponents: Sequence[Influence],
) -> tuple[str, ...]:
    """Say what a reader of one answer would otherwise misread."""
    method, notes = question.method, []
    if query.encoding.truncated:
        notes.append(
            f"This text is longer than {question.run.task.max_length} tokens: what follows was cut, as in training."
        )
    if not any_shared:
        none = "No training row has anything to do with"
        if method.need == "tokens":
            rows = "No training row" if _keeps_all(question) else "Of what this index keeps of its rows, none"
            none = f"{rows} shares a word with"
        notes.append(f"{none} this text, so no row has a score.")
        notes += _never_pushed(question, query)
    elif len(taken.rows) and (taken.train_tokens == NO_TOKEN).all():
        notes.append(f"{method.name} scores whole texts here: no word of theirs has a score of its own.")
    elif method.need == "tokens" and proponents and all(_special(influence) for influence in proponents):
        notes.append("This text shares only special tokens with these rows: no word of theirs speaks for them.")
        notes += _never_pushed(question, query)
    return tuple(notes)


def _never_pushed(question: AskedQuestion, query: Query) -> list[str]:
    """Name the words of a query that no training row pushed anything through. Nothing where the index left words out.

    A row may hold such a word all the same: one without a gradient, as the last token of a text that no end follows.
    """
    if question.method.need != "tokens" or question.token_store is None or not _keeps_all(question):
        return []
    store, texts = question.token_store, Texts.of(query.example, query.encoding)
    held = {int(t) for c in store.manifest.checkpoints for s in store.segments(c) for t in s.postings.tokens}
    places = zip(query.encoding.looked_up, texts.words.of_place, strict=True)
    known = {word for token, word in places if token in held}
    words = {word for word in texts.words.of_place if word is not None} - known
    named = list(dict.fromkeys(texts.words.surface(word) for word in sorted(words)))
    more = f" and {len(named) - _NAMED:,} more" if len(named) > _NAMED else ""
    return [f"No training row pushed anything through: {', '.join(named[:_NAMED])}{more}."] if named else []


def _keeps_all(question: AskedQuestion) -> bool:
    """Whether the index keeps every gradient of its rows: by `max_words` or `energy` some are in no posting."""
    store = question.token_store
    return store is None or (store.manifest.max_words is None and store.manifest.energy is None)


def _special(influence: Influence) -> bool:
    return all(pair.special for pair in influence.words)
