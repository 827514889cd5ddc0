"""Pruned search finds the rows at both ends of all scores, however they are stored, tied, scaled or filtered."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.gradients import TokenGradients
from headwater.store import LooseBoundsError, Postings, QueryLists, Segment, Store, build_store, search_pruned
from headwater.store.touched import PAGE, pages
from store.conftest import SPECIAL, plan, random_gradients

VOCABULARY = 9


def _grid(seed: int, rows: int, width: int = 5) -> TokenGradients:
    """Vectors of -1, 0 and 1 alone, and rows that repeat: ties everywhere, within and between segments."""
    drawn = np.random.default_rng(seed)
    kinds = drawn.integers(-1, 2, size=(4, VOCABULARY, width)) * (drawn.random((4, VOCABULARY, 1)) < 0.5)
    vectors = kinds[drawn.integers(0, 4, size=rows)].reshape(rows * VOCABULARY, width)
    numbers = torch.arange(rows).repeat_interleave(VOCABULARY), torch.arange(VOCABULARY).repeat(rows)
    return TokenGradients(*numbers, torch.from_numpy(vectors.astype(np.float32)))


def _store(folder: Path, rows: int, made: dict[str, TokenGradients], **changes: object) -> Store:
    """A store of these gradients by checkpoint, in ranges of nine rows."""

    def rows_of(checkpoint, part) -> Iterable[TokenGradients]:
        everything = made[checkpoint.name]
        here = (everything.rows >= part.start) & (everything.rows < part.stop)
        return [TokenGradients(everything.rows[here], everything.tokens[here], everything.gradients[here])]

    wanted = plan(rows, checkpoints=len(made), size=9, **changes)
    build_store(folder, wanted, rows_of, others={}, kept=lambda _: None)
    return Store.open(folder)


def _asked(store: Store, checkpoint, query: TokenGradients, most: int | None, weight: float) -> QueryLists:
    order = torch.argsort(query.tokens)
    vectors = query.gradients[order].double() * weight
    norms = torch.linalg.vector_norm(vectors, dim=1).numpy() * (1 + 1e-12)
    return QueryLists(tuple(store.segments(checkpoint)), query.tokens[order].numpy(), vectors, norms, most)


def _brute(lists: list[QueryLists], rows: int) -> np.ndarray:
    """Every score by its definition, in exact enough arithmetic: the sum of the products of shared tokens."""
    scores = np.zeros(rows)
    for each in lists:
        pushed = dict(zip(each.tokens.tolist(), each.vectors.numpy(), strict=True))
        for segment in each.segments:
            stored = segment.postings
            vectors = stored.gradients(slice(None)).double().numpy()
            for at, token in enumerate(stored.token_of().tolist()):
                rank = int(stored.ranks[at])
                if token in pushed and (each.max_words is None or rank < each.max_words or token in SPECIAL):
                    scores[int(stored.rows[at]) + segment.rows.start] += pushed[token] @ vectors[at]
    return scores


def _ends(scores: np.ndarray, allowed: np.ndarray, k: int) -> set[int]:
    rows = [int(row) for row in np.flatnonzero(allowed)]
    above = sorted((row for row in rows if scores[row] > 1e-12), key=lambda row: (-round(scores[row], 12), row))
    below = sorted((row for row in rows if scores[row] < -1e-12), key=lambda row: (round(scores[row], 12), row))
    return {*above[:k], *below[:k]}


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 40),
    ties=st.booleans(),
    checkpoints=st.integers(1, 3),
    dtype=st.sampled_from(["float32", "float16", "int8", "int4"]),
    k=st.sampled_from([1, 2, 5, 30]),
    most=st.sampled_from([None, 1, 3]),
    allowed=st.sampled_from([1.0, 0.5, 0.1]),
    scaled=st.booleans(),
)
def test_the_rows_at_both_ends_are_those_of_all_scores(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int, rows: int, ties: bool, checkpoints: int, dtype: str, k: int, most: int | None, allowed: float,
    scaled: bool,
) -> None:  # fmt: skip
    drawn = np.random.default_rng(seed)

    def draw(seed: int, rows: int) -> TokenGradients:
        return _grid(seed, rows, width) if ties else random_gradients(seed, rows, width=width, vocabulary=VOCABULARY)

    width = 6 if dtype == "int4" else 5
    made = {f"checkpoint-{number + 1}": draw(seed + number, rows) for number in range(checkpoints)}
    store = _store(tmp_path_factory.mktemp("store"), rows, made, dtype=dtype)
    lists = [
        _asked(store, checkpoint, draw(seed + 10 + number, 1), most, (-1.0) ** number * 2.0**-number)
        for number, checkpoint in enumerate(store.manifest.checkpoints)
    ]
    mask = drawn.random(rows) < allowed
    scale = 2.0 ** drawn.integers(-6, 6, size=rows) if scaled else None
    found = search_pruned(lists, k, mask, scale)
    scores = _brute(lists, rows) * (1 if scale is None else scale)
    assert _ends(scores, mask, k) <= set(found.rows.tolist()) <= set(np.flatnonzero(mask).tolist())
    assert found.rows.tolist() == sorted(found.rows.tolist())
    assert 0 <= found.touched.read_bytes <= found.touched.payload_bytes
    assert 0 <= found.touched.read_pages <= found.touched.pages


@dataclass(frozen=True)
class _Recorded(Postings):
    """Postings that write down which vectors were asked for: of a kind that has to be decoded first."""

    asked: list[int] = field(default_factory=list)

    def gradients(self, where):
        self.asked.extend(np.arange(len(self))[where].tolist())
        return super().gradients(where)


def _recorded(lists: QueryLists) -> list[Segment]:
    stored = [{**vars(each.postings), "payload": each.postings.payload.double()} for each in lists.segments]
    return [
        Segment(each.checkpoint, each.rows, _Recorded(**fields))
        for each, fields in zip(lists.segments, stored, strict=True)
    ]


def _heavy(rows: int) -> TokenGradients:
    """A few tokens in every row, with norms as heavy-tailed as those of a trained model."""
    drawn = np.random.default_rng(3)
    vectors = drawn.normal(size=(rows * 6, 8)) * np.exp(drawn.normal(scale=2.0, size=(rows * 6, 1)))
    return TokenGradients(
        torch.arange(rows).repeat_interleave(6),
        torch.arange(6).repeat(rows),
        torch.from_numpy(vectors.astype(np.float32)),
    )


def test_few_vectors_are_read_each_once_and_all_of_them_are_counted(tmp_path: Path) -> None:
    rows, k = 2000, 5
    store = _store(tmp_path / "store", rows, {"checkpoint-1": _heavy(rows)})
    lists = _asked(store, store.manifest.checkpoints[0], _heavy(1), None, 1.0)
    segments = _recorded(lists)
    found = search_pruned([replace(lists, segments=segments)], k, np.ones(rows, dtype=np.bool_))
    read = [(number, at) for number, each in enumerate(segments) for at in each.postings.asked]
    assert len(read) == len(set(read)) == found.touched.read_postings < 0.2 * found.touched.postings
    assert found.touched.postings == 6 * rows and found.touched.payload_bytes == 6 * rows * 8 * 8
    assert found.touched.read_bytes == len(read) * 8 * 8
    assert set(found.rows.tolist()) == _ends(_brute([lists], rows), np.ones(rows, dtype=np.bool_), k)
    whole = {(number, int(at)) for number, each in enumerate(segments) for at in range(len(each.postings))
             if int(each.postings.rows[at]) + each.rows.start in found.rows}  # fmt: skip
    assert whole <= set(read)  # so scoring them again reads nothing new


def test_it_gives_up_before_it_reads_more_than_the_share_it_may(tmp_path: Path) -> None:
    rows, k = 600, 5
    drawn = torch.nn.functional.normalize(torch.randn(rows * 3, 8, generator=torch.Generator().manual_seed(0)))
    alike = TokenGradients(torch.arange(rows).repeat_interleave(3), torch.arange(3).repeat(rows), drawn)
    store = _store(tmp_path / "store", rows, {"checkpoint-1": alike})
    lists = _asked(store, store.manifest.checkpoints[0], _heavy(1), None, 1.0)
    segments = _recorded(lists)
    with pytest.raises(LooseBoundsError):
        search_pruned([replace(lists, segments=segments)], k, np.ones(rows, dtype=np.bool_), most=0.3)
    assert 0 < sum(len(each.postings.asked) for each in segments) <= 0.3 * 3 * rows
    whole = search_pruned([lists], k, np.ones(rows, dtype=np.bool_))
    assert whole.touched.share > 0.3
    assert set(whole.rows.tolist()) == _ends(_brute([lists], rows), np.ones(rows, dtype=np.bool_), k)


def test_all_ties_at_the_last_place_are_found(tmp_path: Path) -> None:
    rows = 40
    same = TokenGradients(torch.arange(rows), torch.full((rows,), 3), torch.ones(rows, 5))
    store = _store(tmp_path / "store", rows, {"checkpoint-1": same})
    lists = _asked(
        store,
        store.manifest.checkpoints[0],
        TokenGradients(*(torch.tensor([n]) for n in (0, 3)), torch.ones(1, 5)),
        None,
        1.0,
    )
    assert search_pruned([lists], 3, np.ones(rows, dtype=np.bool_)).rows.tolist() == list(range(rows))


def test_a_query_that_shares_no_token_touches_nothing(tmp_path: Path) -> None:
    store = _store(tmp_path / "store", 12, {"checkpoint-1": random_gradients(0, 12)})
    alone = TokenGradients(torch.tensor([0]), torch.tensor([500]), torch.ones(1, 5))
    lists = _asked(store, store.manifest.checkpoints[0], alone, None, 1.0)
    found = search_pruned([lists], 3, np.ones(12, dtype=np.bool_))
    assert len(found.rows) == 0 and found.touched.postings == found.touched.pages == 0 == found.touched.share


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40)), max_size=12), st.sampled_from([1, 10, 384, 3000]))
def test_pages_are_counted_once(spans: list[tuple[int, int]], width: int) -> None:
    starts = np.array([start for start, _ in spans], dtype=np.int64) * width + 3 * PAGE + 80
    ends = starts + np.array([count for _, count in spans], dtype=np.int64) * width
    touched = {at // PAGE for start, end in zip(starts, ends, strict=True) for at in range(start, end)}
    assert pages(starts, ends) == len(touched)
