"""One row's words by their places, which its postings share: the row is passed through the checkpoints again.

    score(x, x') = sum_c weight_c  sum_{places p of x', q of x with one token} < g_c(x', p), g_c(x, q) >

the same sum as TracIn-WE's (Yeh et al. 2022, arXiv 2202.11844), before the places of a token are added up; what storing
rounded is the text as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from headwater.attribution.attributions import WordPair
from headwater.attribution.build import special_tokens
from headwater.attribution.completions import NEW_TOKENS
from headwater.attribution.explain import TokenNames, word_pairs
from headwater.attribution.index import Index
from headwater.attribution.living import as_stored
from headwater.attribution.members import Member
from headwater.attribution.queries import Labels, Queries, query_gradients
from headwater.attribution.spans import Spans
from headwater.attribution.words import Texts
from headwater.errors import UsageError
from headwater.gradients import PlaceGradients
from headwater.methods import Contributions, Matched, TokenPart
from headwater.runs import Encoding


def has_places(index: Index) -> bool:
    """Say whether all that a row pushed is stored, so that its places add up to its score."""
    stores = [member.tokens for member in index.members]
    return all(s is not None and s.manifest.max_words is None and s.manifest.energy is None for s in stores)


def words_by_place(index: Index, query: Queries, labels: Labels, row: int, spans: Spans = None) -> tuple[WordPair, ...]:
    """Take TracIn-WE's score of one query with one row apart by the places of both, strongest first.

    The pairs add up to the row's score. Raises UsageError where the index left something out, or has no such row.
    """
    if not has_places(index):
        raise UsageError("this index holds a part of what each row pushed: places would not add up to its scores.")
    if not 0 <= row < len(index):
        raise UsageError(f"the corpus has {len(index):,} rows: there is no row {row:,} (they count from 0).")
    read, labels = index._read(query, labels)
    question, scorer = index._ask(read, labels, "tracin-we", {}, NEW_TOKENS, spans=spans)
    matched = as_stored(scorer)
    assert isinstance(matched, Matched)
    run = index.run
    example = run.corpus[row]
    (encoding,) = run.task.encode(run.tokenizer, [example], offsets=True)
    pieces = []
    parts = iter(matched.parts)
    for member in index.members:
        assert member.tokens is not None
        for _, part in zip(member.tokens.manifest.checkpoints, parts, strict=False):
            pieces.append(_met(part, _pushed(member, part, encoding, row), row))
    found = Contributions.joined(pieces)
    rows = np.array([row])
    rest = scorer.exact(0, rows) - found.scores(rows)
    found = Contributions.joined([found, Contributions.whole(rows, rest)])
    asked, shown = question.asked[0], run.task.shown(example)
    texts, names = Texts.of(shown, encoding), TokenNames(run.tokenizer)
    query_texts = Texts.of(asked.example, asked.encoding)
    pairs = word_pairs(found, query_texts, texts, names, frozenset(special_tokens(run)))
    return tuple(_named(pair, texts, query_texts, names) for pair in pairs)


def _pushed(member: Member, part: TokenPart, encoding: Encoding, row: int) -> PlaceGradients:
    """What the row pushed at one checkpoint, place by place."""
    run = member.run
    model = member.models.load(member.checkpoints[part.checkpoint.fingerprint])
    found = query_gradients(run, model, [encoding], [run.targets[row]], at=part.checkpoint.name, what=f"row {row:,}")
    weight = 1.0 if run.corpus.weights is None else run.corpus.weights[row]
    return replace(found, gradients=found.gradients * weight)


def _met(part: TokenPart, theirs: PlaceGradients, row: int) -> Contributions:
    """Every pair of places that hold the same token."""
    ours = part.places
    mine = np.flatnonzero(ours.rows.numpy() == 0)
    tokens, others = ours.tokens.numpy()[mine], theirs.tokens.numpy()
    at, other = np.nonzero(tokens[:, None] == others[None, :])
    one, two = ours.gradients[mine[at]].double(), theirs.gradients[other].double()
    values = (one * two).sum(dim=1).numpy() * part.weight
    count = len(at)
    return Contributions(
        rows=np.full(count, row, dtype=np.int64),
        train_tokens=others[other].astype(np.int64),
        query_tokens=tokens[at].astype(np.int64),
        places=ours.places.numpy()[mine[at]].astype(np.int64),
        cosines=np.full(count, np.nan),
        values=values,
        train_places=theirs.places.numpy()[other].astype(np.int64),
    )


def _named(pair: WordPair, row: Texts, query: Texts, names: Mapping[int, str]) -> WordPair:
    """Name the token in which two different words meet."""
    if pair.special or pair.part != "words" or pair.train.casefold() == pair.query.casefold():
        return pair
    shared = _tokens(row, pair.train_spans) & _tokens(query, pair.query_spans)
    return replace(pair, via=names[min(shared)]) if shared else pair


def _tokens(texts: Texts, spans: Sequence[object]) -> set[int]:
    words = {number for number, word in enumerate(texts.words.words) if word in spans}
    places = zip(texts.encoding.looked_up, texts.words.of_place, strict=True)
    return {int(token) for token, word in places if word in words}
