"""Asking on a Ray cluster: actors hold ranges of rows, every block of queries goes to all, and their ends are merged.

An actor finds the rows of its ranges that may be among the k highest or lowest, as `attribution.top` does for all rows.
A row that is among the k of all rows is among the k of its actor; the union is scored here in float64 as ever, so the
answer is the same. An actor whose process or node dies is made again elsewhere, and asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from headwater.attribution.explain import ends
from headwater.attribution.question import AskedQuestion
from headwater.attribution.top import Found, cut
from headwater.attribution.where import Where
from headwater.engines.ray import joined, result_of
from headwater.errors import StoreError, UsageError
from headwater.methods import Matched, Scorer, can_prune, is_cheaper, prune
from headwater.methods.parts import TokenPart
from headwater.store import RowRange, Store, StoredCheckpoint, threads_for
from headwater.store.manifest import Manifest
from headwater.store.store import Segment

Finder = Callable[[AskedQuestion, Scorer, int, Where, Bool[np.ndarray, "rows"]], Iterator[Found]]


class HeldStore(Store):
    """Some ranges of a store that follow each other, as a store of their own: its rows are counted from 0."""

    def __init__(self, folder: Path, manifest: Manifest, ranges: Sequence[RowRange]) -> None:
        first = ranges[0].start
        ours = tuple(replace(rows, start=rows.start - first, stop=rows.stop - first) for rows in ranges)
        super().__init__(folder, replace(manifest, ranges=ours))
        self._names = dict(zip(ours, ranges, strict=True))
        self._whole = Store(folder, manifest)

    def segment(self, checkpoint: StoredCheckpoint, rows: RowRange) -> Segment:
        """Return one segment."""
        return replace(self._whole.segment(checkpoint, self._names[rows]), rows=rows)


@dataclass(frozen=True)
class _Asked:
    """A block of queries on its way: the scorer without its stores, which the actors have."""

    scorer: Matched
    folders: tuple[Path, ...]
    """Of the store of each part."""
    k: int


class Holder:
    """An actor: some ranges of rows of one or several stores of the same rows."""

    def __init__(self, stores: Sequence[tuple[Path, Manifest]], ranges: slice) -> None:
        self._stores = {folder: HeldStore(folder, manifest, manifest.ranges[ranges]) for folder, manifest in stores}

    def ends(self, asked: _Asked, allowed: Bool[np.ndarray, "rows"]) -> list[tuple[Int64[np.ndarray, "n"], bool]]:
        """Return for each query the rows that may be at either end, and whether any row shares a word with it."""
        parts = [
            replace(part, store=self._stores[folder])
            for part, folder in zip(asked.scorer.parts, asked.folders, strict=True)
        ]
        scorer = replace(asked.scorer, parts=parts)
        if can_prune(scorer) and is_cheaper(scorer, asked.k):
            tops = [prune(scorer, query, asked.k, allowed) for query in range(scorer.queries)]
            return [(np.asarray(top.rows), top.touched.postings > 0) for top in tops]
        scores = np.zeros((scorer.queries, len(allowed)), dtype=np.float32)
        with threads_for(len(scores)):
            scorer.score(scores)
        margins = scorer.rounding()
        return [
            (ends(line, allowed, asked.k, margin), bool(line.any()))
            for line, margin in zip(scores, margins, strict=True)
        ]


@contextmanager
def held(stores: Sequence[Store], address: str | None, holders: int) -> Iterator[Finder]:
    """Hold stores of the same rows in so many actors; yields what finds rows there (see `top.find_rows`).

    Every node must see the stores' folders. Raises UsageError, StoreError.
    """
    ranges = [[(rows.start, rows.stop) for rows in store.manifest.ranges] for store in stores]
    if any(other != ranges[0] for other in ranges[1:]) or any(store.living is not None for store in stores):
        raise StoreError("an index that has grown cannot be held by a cluster. Call Index.compact first.")
    cuts = np.linspace(0, len(ranges[0]), min(holders, len(ranges[0])) + 1).astype(int)
    spans = [slice(int(start), int(stop)) for start, stop in pairwise(cuts)]
    given = [(store.folder.resolve(), store.manifest) for store in stores]
    with joined(address) as ray:
        options = {"num_cpus": 1, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": "SPREAD"}
        actors = [ray.remote(Holder).options(**options).remote(given, span) for span in spans]
        rows = [slice(ranges[0][span.start][0], ranges[0][span.stop - 1][1]) for span in spans]

        def find(
            question: AskedQuestion, scorer: Scorer, k: int, where: Where, allowed: Bool[np.ndarray, "rows"]
        ) -> Iterator[Found]:
            block = ray.put(_asked(scorer, k, where))
            tasks = [actor.ends.remote(block, allowed[span]) for actor, span in zip(actors, rows, strict=True)]
            answers = [result_of(ray, task) for task in tasks]
            for number in range(len(question.asked)):
                near = np.concatenate([mine[number][0] + span.start for mine, span in zip(answers, rows, strict=True)])
                taken, values = cut(scorer, number, near, k)
                any_shared = any(mine[number][1] for mine in answers)
                yield Found(taken, near, values, None, not allowed.all(), any_shared, None)

        try:
            yield find
        finally:
            for actor in actors:
                ray.kill(actor)


def _asked(scorer: Scorer, k: int, where: Where) -> _Asked:
    if not isinstance(scorer, Matched) or where.collapse:
        raise UsageError("a cluster answers TracIn-WE, without collapse. Ask the index itself.")
    folders = tuple(part.store.folder.resolve() for part in scorer.parts)
    return _Asked(replace(scorer, parts=[_bare(part) for part in scorer.parts]), folders, k)


def _bare(part: TokenPart) -> TokenPart:
    return replace(part, store=None)  # type: ignore[arg-type]
