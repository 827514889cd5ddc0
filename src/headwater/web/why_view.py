"""What the Why? page shows beside its answers: what is explained, where the row stands among others, how to ask on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headwater.attribution.by_place import has_places
from headwater.attribution.index import Index
from headwater.attribution.view import View, view
from headwater.methods import Method, get_method
from headwater.remedies.spelling import class_labels
from headwater.runs import Example, text_task
from headwater.runs.conversation import Conversation
from headwater.web.look import PLACES

if TYPE_CHECKING:
    from headwater.web.why import Asked

ROWS_AT = "/corpus/" if any(place.path == "/corpus" for place in PLACES) else ""  # where a training row's page is
_MANY = 30  # labels that are still offered as links
BY_PLACE = "tracin-we"  # the method whose rows can be taken apart by place, without options
LISTED = "tracin-we"  # the method whose lists over the held-out rows `attribution.word_tables` counts
_VARIANTS = {
    "tracin-we": ("normalize=both", "normalize=train", "special-tokens=false", "max-words=10", "synonyms=true"),
}
"""Options that the page offers beside a method's own defaults; the address takes all."""


@dataclass(frozen=True)
class Choice:
    """A link that changes one thing of the question."""

    name: str
    value: str | None
    url: str
    chosen: bool


@dataclass(frozen=True)
class Place:
    """Where a row stands among those worth explaining, from 1."""

    number: int
    count: int
    noun: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Answered:
    """An answer, the method that gave it, and the command that gives it again."""

    view: View
    method: Method
    spec: str
    """The method with its options, as the address names it."""
    command: str
    elsewhere: tuple[Choice, ...]
    """Of an answer without rows: other ways to ask."""
    places: bool
    """Whether its rows can be taken apart by place."""
    listed: bool
    """Whether it is of the method whose lists of held-out rows are counted (`/api/hubs`)."""


@dataclass(frozen=True)
class Why:
    """All that the page shows."""

    answers: tuple[Answered, ...]
    methods: tuple[Method, ...]
    variants: tuple[str, ...]
    """Methods with options that may be chosen, those that are shown among them."""
    explains: tuple[Choice, ...]
    place: Place | None
    text: str
    text_pair: str | None
    labels: tuple[str, ...]
    relabels: tuple[str, ...]
    """What rows may be labelled, as the corpus spells it."""
    language: bool
    completion: str | None
    """Of a causal language model: what may be explained in part."""
    pairs: bool
    wrong: bool
    """Whether this is a held-out row that a classifier is wrong about."""
    replaced: bool
    """Whether the text holds U+FFFD, which stands for what no text can hold."""


def why_view(
    index: Index,
    asked: Asked,
    specs: Sequence[str],
    answers: Sequence[Mapping[str, Any]],
    methods: Sequence[Method],
    ranks: Sequence[int],
    held: Example | None,
) -> Why:
    """Decide what the page shows. `ranks`: rows worth explaining, in their order; `held`: the row asked about."""
    run = index.run
    query = answers[0]["queries"][0] if answers else {}
    pairs = index.corpus.columns.text_pair is not None
    language = text_task(run.task) is not None
    text = str(query.get("text") or "")
    pair = query.get("text_pair")
    return Why(
        answers=tuple(
            _answered(index, asked, answer, number, specs[number - 1], methods)
            for number, answer in enumerate(answers, 1)
        ),
        methods=tuple(methods),
        variants=_variants(methods, specs),
        explains=_explains(asked, query, held, list(run.label2id), language) if answers else (),
        place=_place(asked, ranks, language),
        text=text,
        text_pair=None if pair is None else str(pair),
        labels=() if language else tuple(map(str, run.label2id)),
        relabels=tuple(class_labels(run)),
        language=language,
        completion=(text if pair is None else str(pair)) if answers and run.task.kind == "causal-lm" else None,
        pairs=pairs,
        wrong=asked.row is not None and not language and asked.row in ranks,
        replaced="\ufffd" in text + str(pair or "") + (asked.label or ""),
    )


def _variants(methods: Sequence[Method], specs: Sequence[str]) -> tuple[str, ...]:
    offered = [f"{each.name}/{option}" for each in methods for option in _VARIANTS.get(each.name, ())]
    return tuple(dict.fromkeys([*offered, *(spec for spec in specs if "/" in spec)]))


def card_view(
    answer: Mapping[str, Any], asked: Asked, row: int, words: Sequence[Mapping[str, Any]], number: int
) -> dict[str, Any] | None:
    """Return what the template of one card needs, its words taken apart anew; None where the answer has no such row."""
    (query,) = answer["queries"]
    special = sum(pair["score"] for pair in words if pair["special"])
    sides = {
        side: [{**each, "words": words, "special": special} if each["example"] == row else each for each in query[side]]
        for side in ("proponents", "opponents")
    }
    shown = replace(view({**answer, "queries": [{**query, **sides}]}, k=asked.k), rows_at=ROWS_AT)
    drawn = replace(shown.queries[0], number=number)
    for side, cards in (("toward", drawn.toward), ("away", drawn.away)):
        for card in cards:
            if card.example == row:
                return {"card": card, "query": drawn, "side": side, "view": shown}
    return None


def _elsewhere(asked: Asked, spec: str, methods: Sequence[Method]) -> tuple[Choice, ...]:
    """Return other ways to ask a question that this one found no rows for."""
    names = [method.name for method in methods]
    specs = ["tracin-we/synonyms=true", "tracin-we/special-tokens=true", *names]
    fitting = [each for each in dict.fromkeys(specs) if each != spec and each.split("/")[0] in names]
    titles = {"tracin-we/synonyms=true": "match synonyms too", "tracin-we/special-tokens=true": "count special tokens"}
    wanted = [each for each in fitting if each != "tracin-we/special-tokens=true" or "special-tokens=false" in spec]
    return tuple(Choice(titles.get(each, f"by {each}"), None, asked.url(method=[each]), False) for each in wanted[:5])


def _answered(
    index: Index, asked: Asked, answer: Mapping[str, Any], number: int, spec: str, methods: Sequence[Method]
) -> Answered:
    shown = view(answer, k=asked.k)
    queries = tuple(replace(query, number=number) for query in shown.queries)
    shown = replace(shown, queries=queries, heading=spec, rows_at=ROWS_AT)
    empty = not (queries[0].toward or queries[0].away)
    return Answered(
        shown,
        get_method(shown.method),
        spec,
        _command(index, asked, answer, spec),
        _elsewhere(asked, spec, methods) if empty else (),
        spec == BY_PLACE and has_places(index),
        spec == LISTED,
    )


def _command(index: Index, asked: Asked, answer: Mapping[str, Any], spec: str) -> str:
    query = answer["queries"][0]
    parts = ["headwater", "query", str(index.run.folder), "--text", str(query["text"])]
    if query.get("text_pair") is not None:
        parts += ["--text-pair", str(query["text_pair"])]
    if query.get("label_source") == "given":
        parts += ["--label", str(query["label"])]
    parts += ["--method", str(answer["method"])]
    for option in spec.split("/")[1:]:
        name, _, value = option.partition("=")
        flag = name.strip().replace("_", "-")
        plain = {"true": [f"--{flag}"], "false": [f"--no-{flag}"]}
        parts += plain.get(value.strip(), [f"--{flag}", value.strip()])
    return shlex.join([*parts, "--top", str(asked.k)])


def before_answer(held: Example) -> list[dict[str, str]] | None:
    """Return the turns before the assistant's answer, of a conversation that ends with one."""
    turns = held.text.turns if isinstance(held.text, Conversation) else []
    return turns[:-1] if turns and turns[-1]["role"] == "assistant" else None


def _explains(
    asked: Asked, query: Mapping[str, Any], held: Example | None, labels: Sequence[Any], language: bool
) -> tuple[Choice, ...]:
    """Return what may be explained: what the model says, the true label, of a typed text any label."""
    said = None if query.get("predicted") is None else str(query["predicted"])
    if asked.start is not None:
        part = Choice("this part", str(query["label"]), asked.url(), True)
        return (part, Choice("all of it", None, asked.url(start=None, end=None), False))
    if held is not None:
        own = asked.explain or ("label" if language else "said")
        found = [
            Choice(
                "what it says",
                said if not language else None,
                asked.url(explain="said", start=None, end=None),
                own == "said",
            )
        ]
        if held.label is not None or before_answer(held) is not None:
            name, value = ("the row's own completion", None) if language else ("the true label", str(held.label))
            found.append(Choice(name, value, asked.url(explain="label", start=None, end=None), own == "label"))
        return tuple(found)
    found = [Choice("what it says", None, asked.url(label=None), not asked.label)]
    if not language and len(labels) <= _MANY:
        found += [Choice("", str(label), asked.url(label=str(label)), asked.label == str(label)) for label in labels]
    return tuple(found)


def _place(asked: Asked, ranks: Sequence[int], language: bool) -> Place | None:
    if asked.row is None or asked.row not in ranks:
        return None
    at = list(ranks).index(asked.row)
    near = [ranks[there] if 0 <= there < len(ranks) else None for there in (at - 1, at + 1)]
    before, after = (None if row is None else asked.url(row=row, start=None, end=None) for row in near)
    return Place(at + 1, len(ranks), "by loss" if language else "wrong", before, after)
