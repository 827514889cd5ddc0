"""TracIn on the word-embedding layer (Yeh et al. 2022, arXiv 2202.11844).

    score(x, x') = sum_c weight_c  sum_{w in x and x'} < dl(x)/dE_w , dl(x')/dE_w >

Positive: training on x lowers the loss of the query x'. Exact: an absent token's gradient is zero. c runs over the
checkpoints (of one run, or of several whose scores are averaged).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from headwater.errors import UsageError
from headwater.methods.method import CheckpointOptions, Question
from headwater.methods.parts import NO_PLACE, Contributions, TokenPart
from headwater.methods.synonyms import Synonym, find_synonyms, join_synonyms, pair_tokens
from headwater.store import Segment, for_each, join, restrict, row_vectors

MOST_WORDS = 254  # ranks are one byte


@dataclass(frozen=True)
class TracInWE(CheckpointOptions):
    """Options of TracIn-WE. The defaults are the exact inner product on the embedding matrix."""

    max_words: int | None = field(
        default=None, metadata={"help": "Topk: keep the words of the largest gradients, so many a text and checkpoint."}
    )
    special_tokens: bool = field(
        default=True,
        metadata={
            "help": "Count [CLS], [SEP] and the like; False is NoC: words alone.",
            "off": "NoC: leave [CLS], [SEP] and the like out, and count words alone.",
        },
    )
    synonyms: bool = field(
        default=False, metadata={"help": "Syn: also pair different words of like embedding, one-to-one."}
    )
    synonym_threshold: float = field(default=0.7, metadata={"help": "Least embedding cosine of a pair of synonyms."})
    normalize: Literal["train", "both"] | None = field(
        default=None,
        metadata={"help": "Divide by the gradient norm of the training row, or of both sides: fewer hubs."},
    )
    second_moments: bool = field(
        default=False,
        metadata={
            "help": "Divide by the square root of Adam's second moments, as its steps were: needs optimizer.pt in each "
            "checkpoint, and Recorder."
        },
    )

    def __post_init__(self) -> None:
        if self.max_words is not None and not 1 <= self.max_words <= MOST_WORDS:
            raise UsageError(f"max_words must be 1 to {MOST_WORDS}, or None for all words; it is {self.max_words}.")
        if self.normalize not in (None, "train", "both"):
            raise UsageError(f"normalize must be None, 'train' or 'both'; it is {self.normalize!r}.")
        if not 0 < self.synonym_threshold <= 1:
            raise UsageError(f"synonym_threshold is a cosine, above 0 and at most 1; it is {self.synonym_threshold}.")
        if self.second_moments and self.normalize is not None:
            raise UsageError("second_moments and normalize exclude each other: norms are known of plain gradients.")


@dataclass(frozen=True)
class Matched:
    """The parts of a question with their synonyms (none unless asked for), ready to be scored (see `Scorer`)."""

    parts: Sequence[TokenPart]
    queries: int
    synonyms: Sequence[Synonym]
    options: TracInWE

    def score(self, out: Float32[np.ndarray, "queries rows"]) -> None:
        """Write the score of every query with every training row into `out`, which holds zeros."""
        options = self.options
        for part in self.parts:
            for_each(part.store.segments(part.checkpoint), partial(self._score_segment, out, part))
        if options.normalize is not None:
            out /= train_norms(self).astype(np.float32)[None, :]
            out /= query_norms(self).astype(np.float32)[:, None]

    def _score_segment(self, out: Float32[np.ndarray, "queries rows"], part: TokenPart, segment: Segment) -> None:
        words = words_to_cut(part, self.options)
        # Special tokens need no cut here: the queries' side has none.
        join(out, part.queries, segment, part.weight, max_words=words)
        if self.synonyms:
            join_synonyms(out, part.queries, segment, part.weight, self.synonyms, max_words=words)

    def rounding(self) -> Float64[np.ndarray, "queries"]:
        """Bound the error of the float32 scores (see `_rounding`)."""
        return _rounding(self)

    def exact(self, query: int, rows: Int64[np.ndarray, "r"]) -> Float64[np.ndarray, "r"]:
        """Return a query's scores with `rows` in float64."""
        return self.explain(query, rows).scores(rows)

    def explain(self, query: int, rows: Int64[np.ndarray, "r"]) -> Contributions:
        """Take a query's scores with `rows` apart, in float64 and in a fixed order."""
        found = Contributions.joined([_explain_part(self, part, query, rows) for part in self.parts])
        if self.options.normalize is None:
            return found
        return replace(found, values=found.values / (train_norms(self, found.rows) * query_norms(self)[query]))


def prepare(question: Question, options: TracInWE) -> Matched:
    """Cut the queries' side down to what the options keep; find synonyms if asked for."""
    parts = question.tokens(options.checkpoints, second_moments=options.second_moments)
    embeddings = question.embeddings() if options.synonyms else None
    return match(parts, len(question.queries), options, embeddings)


def match(
    parts: Sequence[TokenPart], queries: int, options: TracInWE, embeddings: torch.Tensor | None = None
) -> Matched:
    """Make the scorer of some parts; `embeddings` [v, d] are what synonyms are found in.

    Raises UsageError for `normalize` on an index of the strongest gradients alone.
    """
    if options.normalize is not None and any(part.store.manifest.energy is not None for part in parts):
        raise UsageError(
            "normalize needs every row's gradients, but this index keeps the strongest alone (energy), of some rows "
            "none: weak rows would be scored far off. Build an index without energy (--out DIR), or do not normalize."
        )
    cut = [
        replace(
            part, queries=restrict(part.queries, special_tokens=options.special_tokens, max_words=options.max_words)
        )
        for part in parts
    ]
    if not options.synonyms or embeddings is None:
        return Matched(cut, queries, (), options)
    tokens = {int(token) for part in cut for token in part.queries.tokens}
    segments = [segment for part in cut for segment in part.store.segments(part.checkpoint)]
    stored = np.unique(np.concatenate([segment.postings.tokens for segment in segments])).tolist()
    special = cut[0].store.manifest.special_tokens
    synonyms = find_synonyms(embeddings, tokens, stored, threshold=options.synonym_threshold, special=special)
    return Matched(cut, queries, synonyms, options)


def words_to_cut(part: TokenPart, options: TracInWE) -> int | None:
    """Topk on the rows' side; None, which costs nothing, where the index keeps no more words than that anyway."""
    kept = part.store.manifest.max_words
    return None if kept is not None and options.max_words == kept else options.max_words


def _rounding(matched: Matched) -> Float64[np.ndarray, "queries"]:
    """Bound the float32 rounding error of any score of a query.

    At checkpoint c a score is a sum of at most |q_c| |x_c| in absolute terms (Cauchy-Schwarz, for pairs of tokens are
    one-to-one), and so is sum_c |weight_c| |q_c| |x_c| <= |q| |x| in the weighted space that `normalize` divides by.
    """
    options = matched.options
    additions = max(part.queries.dimension for part in matched.parts) + 512  # of components, then tokens, checkpoints
    bound = np.zeros(matched.queries)
    if options.normalize is None:
        for part in matched.parts:
            rows = part.store.squared_norms(
                part.checkpoint, special_tokens=options.special_tokens, max_words=options.max_words
            )
            bound += abs(part.weight) * np.sqrt(_query_squares(part, matched.queries) * rows.max())
    elif options.normalize == "train":
        bound = np.sqrt(sum(abs(part.weight) * _query_squares(part, matched.queries) for part in matched.parts))
    else:
        bound += 1
    return bound * additions * 2.0**-24


def train_norms(matched: Matched, rows: Int64[np.ndarray, "r"] | None = None) -> Float64[np.ndarray, "r"]:
    """What `normalize` divides the scores of `rows` (None: all) by: their norms in the weighted space of all parts."""
    options = matched.options
    count = matched.parts[0].store.manifest.rows if rows is None else len(rows)
    if options.normalize is None:
        return np.ones(count)
    squares = np.zeros(count)
    for part in matched.parts:
        known = part.store.squared_norms(
            part.checkpoint, special_tokens=options.special_tokens, max_words=options.max_words
        )
        squares += abs(part.weight) * (known if rows is None else known[rows])
    squares[squares == 0] = 1  # a row that pushed nothing scores 0, whatever it is divided by
    return np.sqrt(squares)


def query_norms(matched: Matched) -> Float64[np.ndarray, "queries"]:
    """What `normalize="both"` divides each query's scores by as well, so that a score is a cosine."""
    if matched.options.normalize != "both":
        return np.ones(matched.queries)
    squares = np.zeros(matched.queries)
    for part in matched.parts:
        squares += abs(part.weight) * _query_squares(part, matched.queries)
    squares[squares == 0] = 1
    return np.sqrt(squares)


def _query_squares(part: TokenPart, queries: int) -> Float64[np.ndarray, "queries"]:
    """Each query's squared gradient norm at one checkpoint, over the tokens that the options keep."""
    norms = part.queries.norms.astype(np.float64)
    return np.bincount(part.queries.rows.astype(np.intp), weights=norms**2, minlength=queries)


def _explain_part(matched: Matched, part: TokenPart, query: int, rows: Int64[np.ndarray, "r"]) -> Contributions:
    """Take the scores at one checkpoint apart."""
    options = matched.options
    mine = {int(token) for token in part.queries.token_of()[part.queries.rows == query]}
    wanted = mine | {pair.train_token for pair in matched.synonyms if pair.query_token in mine}
    tokens = np.array(sorted(wanted), dtype=np.int64)
    at = (part.places.rows == query).nonzero().squeeze(1)
    places = part.places.places[at].cpu().numpy()
    place_tokens = part.places.tokens[at].cpu().numpy()
    pushed = part.places.gradients[at].cpu().double()
    left: list[int] = []
    right: list[int] = []
    cosines: list[float] = []
    found_rows, found_tokens, vectors = [], [], []
    offset = 0
    for segment in part.store.segments(part.checkpoint):
        row_of, token_of, vector_of = row_vectors(
            segment, rows, tokens, special_tokens=options.special_tokens, max_words=options.max_words
        )
        for row in np.unique(row_of):
            here = {int(token_of[i]): int(i) + offset for i in np.flatnonzero(row_of == row)}
            pairs = pair_tokens(mine, here.keys(), matched.synonyms)
            for (query_token, train_token), cosine in sorted(pairs.items()):
                for place in np.flatnonzero(place_tokens == query_token):
                    left.append(here[train_token])
                    right.append(int(place))
                    cosines.append(cosine)
        found_rows.append(row_of)
        found_tokens.append(token_of)
        vectors.append(vector_of)
        offset += len(row_of)
    if not left:
        return Contributions.whole(np.zeros(0, dtype=np.int64), np.zeros(0))
    one, other = torch.tensor(left), torch.tensor(right)
    values = (torch.cat(vectors)[one] * pushed[other]).sum(dim=1).numpy() * part.weight
    return Contributions(
        np.concatenate(found_rows)[left].astype(np.int64),
        np.concatenate(found_tokens)[left].astype(np.int64),
        place_tokens[right].astype(np.int64),
        places[right].astype(np.int64),
        np.array(cosines),
        values,
        np.full(len(left), NO_PLACE, dtype=np.int64),
    )
