"""TracIn on the word-embedding layer (Yeh et al. 2022, arXiv 2202.11844).

    score(x, x') = sum_c weight_c  sum_{w in x and x'} < dl(x)/dE_w , dl(x')/dE_w >

Positive: training on x lowers the loss of the query x'. Exact: an absent token's gradient is zero. c runs over the
checkpoints (of one run, or of several whose scores are averaged).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from headwater.errors import UsageError
from headwater.methods.parts import Contributions, Part
from headwater.methods.synonyms import Synonym, find_synonyms, join_synonyms, pair_tokens
from headwater.store import join, restrict, row_vectors

MOST_WORDS = 254  # ranks are one byte


@dataclass(frozen=True)
class TracInWE:
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
    checkpoints: tuple[str, ...] | None = field(default=None, metadata={"help": "Only these checkpoints."})

    def __post_init__(self) -> None:
        if self.max_words is not None and not 1 <= self.max_words <= MOST_WORDS:
            raise UsageError(f"max_words must be 1 to {MOST_WORDS}, or None for all words; it is {self.max_words}.")
        if self.normalize not in (None, "train", "both"):
            raise UsageError(f"normalize must be None, 'train' or 'both'; it is {self.normalize!r}.")
        if not 0 < self.synonym_threshold <= 1:
            raise UsageError(f"synonym_threshold is a cosine, above 0 and at most 1; it is {self.synonym_threshold}.")


@dataclass(frozen=True)
class Matched:
    """The parts of a question with their synonyms (none unless asked for), ready to be scored."""

    parts: Sequence[Part]
    synonyms: Sequence[Synonym]
    options: TracInWE


def prepare(parts: Sequence[Part], options: TracInWE, embeddings: torch.Tensor | None) -> Matched:
    """Cut the queries' side down to what the options keep; find synonyms in `embeddings` [v, d] if asked for."""
    cut = [
        Part(
            part.store,
            part.checkpoint,
            part.weight,
            restrict(part.queries, special_tokens=options.special_tokens, max_words=options.max_words),
            part.places,
        )
        for part in parts
    ]
    if not options.synonyms or embeddings is None:
        return Matched(cut, (), options)
    tokens = {int(token) for part in cut for token in part.queries.tokens}
    segments = [segment for part in cut for segment in part.store.segments(part.checkpoint)]
    stored = np.unique(np.concatenate([segment.postings.tokens for segment in segments])).tolist()
    special = cut[0].store.manifest.special_tokens
    synonyms = find_synonyms(embeddings, tokens, stored, threshold=options.synonym_threshold, special=special)
    return Matched(cut, synonyms, options)


def tracin_we(matched: Matched, out: Float32[np.ndarray, "queries rows"]) -> None:
    """Write the score of every query with every training row into `out`, which holds zeros."""
    options = matched.options
    for part in matched.parts:
        words = _words_to_cut(part, options)
        for segment in part.store.segments(part.checkpoint):
            join(out, part.queries, segment, part.weight, max_words=words)  # special tokens: the queries' side is cut
            if matched.synonyms:
                join_synonyms(out, part.queries, segment, part.weight, matched.synonyms, max_words=words)
    if options.normalize is not None:
        out /= train_norms(matched).astype(np.float32)[None, :]
        out /= query_norms(matched, len(out)).astype(np.float32)[:, None]


def _words_to_cut(part: Part, options: TracInWE) -> int | None:
    """Topk on the rows' side; None, which costs nothing, where the index keeps no more words than that anyway."""
    kept = part.store.manifest.max_words
    return None if kept is not None and options.max_words == kept else options.max_words


def rounding(matched: Matched, queries: int) -> Float64[np.ndarray, "queries"]:
    """Bound the float32 rounding error of any score of a query.

    At checkpoint c a score is a sum of at most |q_c| |x_c| in absolute terms (Cauchy-Schwarz, for pairs of tokens are
    one-to-one), and so is sum_c |weight_c| |q_c| |x_c| <= |q| |x| in the weighted space that `normalize` divides by.
    """
    options = matched.options
    additions = max(part.queries.dimension for part in matched.parts) + 512  # of components, then tokens, checkpoints
    bound = np.zeros(queries)
    if options.normalize is None:
        for part in matched.parts:
            rows = part.store.squared_norms(
                part.checkpoint, special_tokens=options.special_tokens, max_words=options.max_words
            )
            bound += abs(part.weight) * np.sqrt(_query_squares(part, queries) * rows.max())
    elif options.normalize == "train":
        bound = np.sqrt(sum(abs(part.weight) * _query_squares(part, queries) for part in matched.parts))
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


def query_norms(matched: Matched, queries: int) -> Float64[np.ndarray, "queries"]:
    """What `normalize="both"` divides each query's scores by as well, so that a score is a cosine."""
    if matched.options.normalize != "both":
        return np.ones(queries)
    squares = np.zeros(queries)
    for part in matched.parts:
        squares += abs(part.weight) * _query_squares(part, queries)
    squares[squares == 0] = 1
    return np.sqrt(squares)


def _query_squares(part: Part, queries: int) -> Float64[np.ndarray, "queries"]:
    """Each query's squared gradient norm at one checkpoint, over the tokens that the options keep."""
    norms = part.queries.norms.astype(np.float64)
    return np.bincount(part.queries.rows.astype(np.intp), weights=norms**2, minlength=queries)


def explain(matched: Matched, query: int, rows: Int64[np.ndarray, "r"], queries: int) -> Contributions:
    """Take a query's scores with `rows` apart, in float64 and in a fixed order."""
    pieces = [_explain_part(matched, part, query, rows) for part in matched.parts]
    found, trained, asked, places, cosines, values = (np.concatenate(column) for column in zip(*pieces, strict=True))
    found = found.astype(np.int64)
    if matched.options.normalize is not None:
        values = values / (train_norms(matched, found) * query_norms(matched, queries)[query])
    return Contributions(
        found, trained.astype(np.int64), asked.astype(np.int64), places.astype(np.int64), cosines, values
    )


def _explain_part(matched: Matched, part: Part, query: int, rows: Int64[np.ndarray, "r"]) -> tuple[np.ndarray, ...]:
    """One checkpoint: (rows, train tokens, query tokens, places, cosines, values)."""
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
        return tuple(np.zeros(0) for _ in range(6))
    one, other = torch.tensor(left), torch.tensor(right)
    values = (torch.cat(vectors)[one] * pushed[other]).sum(dim=1).numpy() * part.weight
    return (
        np.concatenate(found_rows)[left],
        np.concatenate(found_tokens)[left],
        place_tokens[right],
        places[right],
        np.array(cosines),
        values,
    )
