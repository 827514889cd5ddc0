"""Finding the rows at both ends of a query's scores: the full scan against the hardware, the pruned search against it.

In one process, in turns: how fast memory is read and matrices are multiplied here; full scans of one query and of
many; pruned searches of the same queries, and what they read. Smaller stores are the first segments of the large one.
Goals at 50,000 rows and more, k = 20, both signs: at most 3% of the payload's bytes and 10% of its pages, in less time
than the full scan; a full scan of one query at half of the memory's rate, of many at half of the product's rate.

    python benchmarks/search.py [--rows 4096 16384 50000 67349] [--queries 32] [-k 20] [--index DIR --run DIR]

Without --index it fine-tunes MiniLM on 4,000 phrases of SST-2 and indexes all 67,349 under .work (20 minutes on one
busy core), once. Times are CPU seconds of one thread: they mean something on a busy machine too.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from report import WORK, Goal, data_folder, heading, save, table, use_threads

if TYPE_CHECKING:
    from headwater import Index
    from headwater.methods import Matched

MANY = 128
PHRASES = 67_349


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[4_096, 16_384, 50_000, PHRASES])
    parser.add_argument("--queries", type=int, default=32, help="of the dev sentences")
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    use_threads(1)
    title = heading("Search: full scan and pruned")
    index = opened(options.index, options.run)
    asked = matched(index, max(options.queries, MANY))
    found = [measure(asked, rows, options) for rows in options.rows]
    print(title, "\n")
    print(table(COLUMNS, [line(each) for each in found]), "\n")
    for goal in goals(found[-1]):
        print(goal)
    print(save("search", {"sizes": found}))


def opened(folder: Path | None, run: Path | None) -> Index:
    """Open an index of the phrases of SST-2 by a fine-tuned MiniLM; make it where there is none."""
    import headwater as hw
    from headwater.training.settings import TrainSettings
    from headwater.training.train import train
    from workloads import sst2_phrases

    if folder is not None:
        return hw.Index.open(folder, run=None if run is None else hw.Run.open(run))
    place = WORK / "search"
    if not (place / "run").exists():
        phrases = sst2_phrases(PHRASES)
        task = hw.Classification(max_length=64)
        trained = train(hw.Corpus.read(phrases[:4_000]), task, place / "trained", TrainSettings(epochs=1))
        last = trained.checkpoints[-1]
        corpus = hw.Corpus.read(phrases, name="sst2-phrases")
        hw.Run.create(place / "run", checkpoints=[(last.path, last.weight)], corpus=corpus, task=trained.task)
    return hw.Index.build(hw.Run.open(place / "run"), place / "index", show=False)


def matched(index: Index, queries: int) -> Matched:
    """The dev sentences, pushed through the model and ready to be searched for."""
    from headwater.attribution.completions import NEW_TOKENS
    from headwater.attribution.queries import read_queries

    path = data_folder() / "sst2" / "dev.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(each)["text"] for each in lines][:queries]
    _, scorer = index._ask(read_queries(texts, pairs=False), None, "tracin-we", {}, NEW_TOKENS)
    return cast("Matched", scorer)


def cut(asked: Matched, rows: int, queries: Sequence[int]) -> Matched:
    """The same with some of the queries, over the store's first segments that hold `rows` rows or more."""
    import dataclasses

    import torch

    from headwater.gradients import PlaceGradients, fold_places
    from headwater.methods import Matched
    from headwater.store import Store, postings_in_memory

    parts = []
    for part in asked.parts:
        kept = [each for each in part.store.manifest.ranges if each.start < rows]
        manifest = dataclasses.replace(part.store.manifest, ranges=tuple(kept))
        store = Store(part.store.folder, manifest)
        store._opened = part.store._opened  # mapped once, as in a process that answers many queries
        here = torch.isin(part.places.rows, torch.tensor(queries))
        numbers = torch.searchsorted(torch.tensor(queries), part.places.rows[here])
        places = PlaceGradients(
            numbers, part.places.places[here], part.places.tokens[here], part.places.gradients[here]
        )
        postings = postings_in_memory(fold_places(places), special=manifest.special_tokens)
        parts.append(dataclasses.replace(part, store=store, queries=postings, places=places))
    return Matched(parts, len(queries), (), asked.options)


def measure(asked: Matched, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Scan and search a store of so many rows; the best of the repeats, as others compute here too."""
    import numpy as np

    from headwater.methods import is_cheaper, prune

    singles = [cut(asked, rows, [number]) for number in range(options.queries)]
    many = cut(asked, rows, list(range(MANY)))
    count = many.parts[0].store.manifest.rows
    allowed = np.ones(count, dtype=np.bool_)
    found: dict[str, Any] = {"rows": count, "k": options.k, "full": [], "pruned": [], "auto": [], "touched": []}
    best: dict[str, float] = {"read": 0.0, "product": 0.0, "many": float("inf")}
    for single in singles:
        full, pruned, given_up = [], [], []
        touched = prune(single, 0, options.k, allowed).touched
        for _ in range(options.repeats):
            best["read"] = max(best["read"], read_rate())
            full.append(clocked(partial(single.score, np.zeros((1, count), dtype=np.float32))))
            pruned.append(clocked(partial(prune, single, 0, options.k, allowed)))
            given_up.append(clocked(partial(gives_up, single, options.k, allowed)))
        found["full"].append(min(full))
        found["pruned"].append(min(pruned))
        if not is_cheaper(single, options.k):
            found["auto"].append(min(full))
        elif gives_up(single, options.k, allowed):
            found["auto"].append(min(given_up) + min(full))
        else:
            found["auto"].append(min(pruned))
        found["touched"].append(touched.to_dict())
    for _ in range(options.repeats):
        best["product"] = max(best["product"], product_rate(many.parts[0].queries.dimension))
        best["many"] = min(best["many"], clocked(lambda: many.score(np.zeros((MANY, count), dtype=np.float32))))
    return {**found, **best, "flops": flops(many)}


def gives_up(single: Matched, k: int, allowed: Any) -> bool:
    """Does `search=auto` hand over to the full scan, when it has begun to prune?"""
    from headwater.methods import prune
    from headwater.store import LooseBoundsError

    try:
        prune(single, 0, k, allowed, persist=False)
    except LooseBoundsError:
        return True
    return False


def read_rate() -> float:
    """GB a second at which this thread reads float16 numbers in order: their largest, as 32-bit words."""
    import numpy as np

    words = read_rate.__dict__.setdefault("words", np.ones(40_000_000, dtype=np.int32))  # five times the cache
    return words.nbytes / clocked(lambda: words.max()) / 1e9


def product_rate(width: int) -> float:
    """GFLOP a second of float32 products of MANY queries with the lists of a segment."""
    import torch

    left, right = torch.randn(MANY, width), torch.randn(4096, width)
    return 2 * MANY * 4096 * width / min(clocked(lambda: left @ right.T) for _ in range(5)) / 1e9


def flops(asked: Matched) -> int:
    import numpy as np

    total = 0
    for part in asked.parts:
        wanted = np.diff(part.queries.offsets)
        for segment in part.store.segments(part.checkpoint):
            spans = [segment.postings.span(int(token)) for token in part.queries.tokens]
            total += sum((span.stop - span.start) * int(n) for span, n in zip(spans, wanted, strict=True))
    return 2 * total * asked.parts[0].queries.dimension


def clocked(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


COLUMNS = [
    "rows", "full ms", "GB/s", "of reading", "pruned ms", "/ full", "auto / better", "worst", "bytes read", "worst",
    "pages read", "worst", "norms and rows / payload", f"{MANY} queries ms", "GFLOP/s", "of product",
]  # fmt: skip


def rates(found: dict[str, Any]) -> dict[str, float]:
    """What the table and the goals say: medians over the queries; shares are means, and the worst."""
    touched = found["touched"]
    speed = [each["payload_bytes"] / full / 1e9 for each, full in zip(touched, found["full"], strict=True)]
    many = found["flops"] / found["many"] / 1e9
    both = zip(found["auto"], found["full"], found["pruned"], strict=True)
    auto = [taken / min(full, pruned) for taken, full, pruned in both]
    return {
        "full": statistics.median(found["full"]) * 1e3,
        "speed": statistics.median(speed),
        "of read": statistics.median(speed) / found["read"],
        "pruned": statistics.median(found["pruned"]) * 1e3,
        "ratio": statistics.median(p / f for p, f in zip(found["pruned"], found["full"], strict=True)),
        "auto": statistics.mean(auto),
        "worst auto": max(auto),
        "bytes": statistics.mean(each["share"] for each in touched),
        "worst bytes": max(each["share"] for each in touched),
        "pages": statistics.mean(each["page_share"] for each in touched),
        "worst pages": max(each["page_share"] for each in touched),
        "listed": statistics.mean(each["listed_bytes"] / each["payload_bytes"] for each in touched),
        "many": many,
        "of product": many / found["product"],
    }


def line(found: dict[str, Any]) -> list[str]:
    said = rates(found)
    return [
        f"{found['rows']:,}", f"{said['full']:.1f}", f"{said['speed']:.1f}", f"{said['of read']:.0%}",
        f"{said['pruned']:.1f}", f"{said['ratio']:.2f}", f"{said['auto']:.2f}", f"{said['worst auto']:.2f}",
        f"{said['bytes']:.2%}", f"{said['worst bytes']:.1%}",
        f"{said['pages']:.2%}", f"{said['worst pages']:.1%}", f"{said['listed']:.1%}", f"{found['many'] * 1e3:.0f}",
        f"{said['many']:.0f}", f"{said['of product']:.0%}",
    ]  # fmt: skip


def goals(found: dict[str, Any]) -> list[Goal]:
    said, rows = rates(found), f"{found['rows']:,} rows"
    return [
        Goal(f"share of the payload's bytes, {rows}", said["bytes"], 0.03, at_least=False),
        Goal(f"share of its pages, {rows}", said["pages"], 0.10, at_least=False),
        Goal(f"pruned / full, CPU time, {rows}", said["ratio"], 1.0, at_least=False),
        Goal(f"auto / the better of the two, mean, {rows}", said["auto"], 1.1, at_least=False),
        Goal("full scan of one query / reading", said["of read"], 0.5),
        Goal(f"full scan of {MANY} queries / product", said["of product"], 0.5),
    ]


if __name__ == "__main__":
    main()
