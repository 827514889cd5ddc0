"""One query's answer: the rows that were found, taken apart into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from headwater.attribution.attributions import Attribution, Influence
from headwater.attribution.build import special_tokens
from headwater.attribution.explain import TokenNames, both_sides, hubs, word_pairs
from headwater.attribution.facts import notes_of
from headwater.attribution.question import AskedQuestion
from headwater.attribution.top import Found, percentiles
from headwater.attribution.words import Texts
from headwater.methods import Contributions, Scorer
from headwater.progress import stage


def answer(question: AskedQuestion, scorer: Scorer, number: int, found: Found, k: int) -> Attribution:
    """Take the rows of a query apart, sort them, and put words to them."""
    stage(f"taking {len(found.rows)} rows apart into words")
    taken = scorer.explain(number, found.rows)
    values = taken.scores(found.rows)
    near = values if found.values is None else found.values
    sides = both_sides(found.rows, values, k)
    query = question.asked[number]
    texts = Texts.of(query.example, query.encoding)
    proponents, opponents = (
        _influences(question, side, percentiles(found, side, near, len(question.corpus)), taken, texts)
        for side in (sides.proponents, sides.opponents)
    )
    notes = notes_of(question, query, found.any_shared, taken, proponents)
    return Attribution(query, texts.words, proponents, opponents, found.push, notes, found.touched)


def _influences(
    question: AskedQuestion,
    side: Sequence[tuple[int, float]],
    places: Sequence[float | None],
    taken: Contributions,
    query: Texts,
) -> tuple[Influence, ...]:
    run = question.run
    examples = [question.corpus[row] for row, _ in side]
    encodings = run.task.encode(run.tokenizer, examples, offsets=True)
    names = TokenNames(run.tokenizer)
    special = frozenset(special_tokens(run))
    return tuple(
        Influence(shown, score, place, word_pairs(taken, query, Texts.of(shown, encoding), names, special))
        for shown, encoding, (_, score), place in zip(
            map(run.task.shown, examples), encodings, side, places, strict=True
        )
    )


def with_hubs(items: Sequence[Attribution]) -> tuple[Attribution, ...]:
    """Say of every row in how many of the lists of all these answers it stands."""
    counts = hubs([[part.example.row for part in side] for item in items for side in (item.proponents, item.opponents)])
    return tuple(_with_hubs(item, counts) for item in items)


def _with_hubs(item: Attribution, counts: Mapping[int, int]) -> Attribution:
    proponents = tuple(replace(part, hub=counts[part.example.row]) for part in item.proponents)
    opponents = tuple(replace(part, hub=counts[part.example.row]) for part in item.opponents)
    return replace(item, proponents=proponents, opponents=opponents)
