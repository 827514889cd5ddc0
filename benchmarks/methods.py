"""What each method costs on one run: seconds to capture what it needs, seconds to score, bytes on disk.

MiniLM, fine-tuned here on AG News (one epoch, 2 checkpoints, texts of at most 64 tokens). Methods that read the same
stored set share its capture: it is built once, from nothing, and its seconds and bytes stand at each of them. Scoring
is `Index.scores` of some test texts against all rows, so it holds encoding and the queries' own passes through every
checkpoint. The first call of a method also loads what is kept in memory afterwards; "again" is the median of the rest.

    python benchmarks/methods.py [--rows 500] [--queries 10] [--methods NAME ...] [--repeats 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from report import WORK, heading, save, table, use_threads

if TYPE_CHECKING:
    from headwater import Index, Run
    from headwater.methods import Method


@dataclass
class Cost:
    """One line of the table."""

    method: str
    stored: str
    capture: float | None = None
    bytes: int | None = None
    first: float | None = None
    again: list[float] = field(default_factory=list)
    problem: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="default: all of the registry")
    parser.add_argument("--repeats", type=int, default=3, help="scorings after the first")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    use_threads(options.threads)
    title = heading("Cost of each method on one run")
    from headwater.methods import all_methods, get_method
    from workloads import ag_news, ag_news_test

    chosen = [get_method(name) for name in options.methods] if options.methods else list(all_methods())
    told(f"training MiniLM on {options.rows} rows")
    run, training = clocked(lambda: trained(ag_news(options.rows)))
    queries = ag_news_test(options.queries)
    found = costs(run, chosen, queries, options.repeats)
    rows = f"{options.rows:,} rows, {len(run.checkpoints)} checkpoints, {options.queries} queries"
    print(f"{title}\n{rows}, {options.threads} thread(s); training took {training:.0f} s\n")
    columns = ["method", "stored set", "capture s", "MB", "bytes a row", "first score s", "again s"]
    print(table(columns, [line(cost, options.rows) for cost in found]), "\n")
    for cost in found:
        if cost.problem:
            print(f"{cost.method}: {cost.problem}")
    print(save("methods", {"training": training, "costs": [vars(cost) for cost in found]}))


def told(what: str) -> None:
    print(what, "...", file=sys.stderr, flush=True)


def trained(examples: list[dict[str, Any]]) -> Run:
    from headwater import Classification, Corpus
    from headwater.training import TrainSettings, train

    folder = WORK / "runs" / "methods"
    shutil.rmtree(folder, ignore_errors=True)
    settings = TrainSettings(model="minilm", epochs=1, checkpoints=2)
    return train(Corpus.read(examples, name="ag_news"), Classification(max_length=64), folder, settings, show=False)


def costs(run: Run, methods: list[Method], queries: list[dict[str, Any]], repeats: int) -> list[Cost]:
    """Build each stored set once and score by the methods that read it; a method that cannot says why."""
    sets: dict[str, list[Method]] = {}
    for method in methods:
        sets.setdefault(stored_set(method), []).append(method)
    found: dict[str, Cost] = {}
    for number, (stored, readers) in enumerate(sets.items()):
        told(f"building: {stored}")
        for method, cost in measured_set(run, stored, number, readers, queries, repeats):
            found[method] = cost
    return [found[method.name] for method in methods]


def stored_set(method: Method) -> str:
    """What its capture writes, in words; methods of the same words share it."""
    if method.need != "layers":
        return "-" if method.need == "texts" else method.need
    return f"layers: {method.layers}" + ("" if method.scale == "none" else f", {method.scale}")


def measured_set(
    run: Run, stored: str, number: int, methods: list[Method], queries: list[dict[str, Any]], repeats: int
) -> list[tuple[str, Cost]]:
    from headwater import HeadwaterError, Index

    folder = WORK / "indexes" / f"methods-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    found = [(method.name, Cost(method.name, stored)) for method in methods]
    try:
        if stored == "-":
            index, seconds = Index.of(run), 0.0  # such methods read texts alone
        else:
            index, seconds = clocked(lambda: Index.build(run, folder, method=methods[0].name, show=False))
    except HeadwaterError as error:
        for _, cost in found:
            cost.problem = str(error)
        return found
    for name, cost in found:
        if stored != "-":
            cost.capture, cost.bytes = seconds, index.bytes
        told(f"scoring: {name}")
        try:
            score(index, cost, queries, repeats)
        except HeadwaterError as error:
            cost.problem = str(error)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def score(index: Index, cost: Cost, queries: list[dict[str, Any]], repeats: int) -> None:
    texts, labels = [query["text"] for query in queries], [query["label"] for query in queries]

    def once() -> float:
        return clocked(lambda: index.scores(texts, labels, method=cost.method, show=False))[1]

    cost.first = once()
    cost.again = [once() for _ in range(repeats)]


def clocked(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def line(cost: Cost, rows: int) -> list[str]:
    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        cost.method,
        cost.stored,
        cell(cost.capture, ".1f"),
        cell(None if cost.bytes is None else cost.bytes / 1e6, ".1f"),
        cell(None if cost.bytes is None else cost.bytes / rows, ",.0f"),
        cell(cost.first, ".2f"),
        cell(statistics.median(cost.again) if cost.again else None, ".3f"),
    ]


if __name__ == "__main__":
    main()
