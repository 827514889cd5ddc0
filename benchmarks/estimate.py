"""What `headwater estimate` says against what it then takes: an index, a batch of queries, an evaluation.

In turns, estimate and truth, each from nothing (folders deleted, models loaded anew) in one process. Goal: the median
estimate within 25% of the median truth, in seconds, and of the index in bytes too.

    python benchmarks/estimate.py [--models textcnn minilm] [--of index queries evaluation] [--repeats 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from report import WORK, Goal, heading, save, spread, table, use_threads

if TYPE_CHECKING:
    from headwater import Run

GOAL = 1.25
ROWS = {"textcnn": 4_000, "minilm": 512}
QUERIES = {"textcnn": 300, "minilm": 150}
SUBSETS = {"textcnn": 24, "minilm": 4}
EVALUATED = {"textcnn": 1_000, "minilm": 200}
OF = ("index", "queries", "evaluation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--of", nargs="+", choices=OF, default=list(OF))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    use_threads(options.threads)
    title = heading("Estimates against the truth")
    found = [measure(model, of, options.repeats) for model in options.models for of in options.of]
    print(title, "\n")
    columns = ["model", "of", "estimate s", "truth s", "estimate / truth", "probe s", "estimate MB", "truth MB"]
    print(table(columns, [line(one) for one in found]), "\n")
    for one in found:
        for what in ("seconds", "bytes"):
            if one["truth"][0][what] is not None:
                off = ratio(one, what)
                print(Goal(f"{one['model']}, {one['of']}, {what}: off by", max(off, 1 / off), GOAL, at_least=False))
    print(save("estimate", {"runs": found}))


def measure(model: str, of: str, repeats: int) -> dict[str, Any]:
    """Estimates and truths in turns, after one turn of each that does not count."""
    way: Callable[[Run, str, Path], tuple[dict[str, Any], dict[str, Any]]]
    way = {"index": an_index, "queries": a_batch, "evaluation": an_evaluation}[of]
    run = trained(model, of)
    found: dict[str, Any] = {"model": model, "of": of, "estimate": [], "truth": []}
    for turn in range(repeats + 1):
        folder = WORK / "estimates" / f"{model}-{of}"
        shutil.rmtree(folder, ignore_errors=True)
        said, took = way(run, model, folder)
        if turn:
            found["estimate"].append(said)
            found["truth"].append(took)
        print(f"{model}, {of}: said {said['seconds']:.2f} s, took {took['seconds']:.2f} s", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def an_index(run: Run, model: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from headwater import Index
    from headwater.attribution.estimate import estimate_index

    said = estimate_index(run, folder, checkpoints=run.checkpoints)
    took, index = clocked(lambda: Index.build(run, folder))
    estimate = {"seconds": said.seconds, "bytes": said.disk_bytes, "probe": said.probe_seconds}
    return estimate, {"seconds": took, "bytes": index.bytes}


def a_batch(run: Run, model: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from headwater import Corpus, Index
    from headwater.attribution.estimate_queries import estimate_queries
    from workloads import ag_news_test

    Index.build(run, folder)
    said = estimate_queries(run, folder, QUERIES[model])
    rows = ag_news_test(QUERIES[model] + 100)[100:]  # none of those that the run keeps
    corpus, labels = Corpus.read(rows, name="queries"), [row["label"] for row in rows]
    took, _ = clocked(lambda: Index.open(folder, run=run).query(corpus, labels))
    return {"seconds": said.seconds, "bytes": None, "probe": said.probe_seconds}, {"seconds": took, "bytes": None}


def an_evaluation(run: Run, model: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The truth goes on where the estimate left off, so what the estimate timed and kept counts for both."""
    from headwater import evaluate
    from headwater.evaluation.estimate import estimate_evaluation

    asked = (run, ["tracin-we", "tracin-last"], ["lds", "hubness"], 20)
    settings = {"subsets": SUBSETS[model], "seeds": 1, "processes": 1}
    said = estimate_evaluation(*asked, out=folder, **settings)
    took, _ = clocked(lambda: evaluate(*asked, out=folder, show=False, **settings).save(folder))
    return {"seconds": said.seconds, "bytes": None, "probe": said.probe_seconds}, {"seconds": took, "bytes": None}


def trained(model: str, of: str) -> Run:
    """A run with its recipe: one epoch over rows of AG News, two checkpoints; 100 test rows to ask."""
    from headwater import Classification, Corpus
    from headwater.training import TrainSettings, train
    from workloads import ag_news, ag_news_test

    folder = WORK / "runs" / f"estimate-{model}-{of}"
    shutil.rmtree(folder, ignore_errors=True)
    rows = EVALUATED[model] if of == "evaluation" else ROWS[model]
    settings = TrainSettings(model=model, epochs=1, max_length=64, checkpoints=2, device="cpu")
    corpus, asked = Corpus.read(ag_news(rows)), Corpus.read(ag_news_test(100), name="test")
    return train(corpus, Classification(max_length=64), folder, settings, eval_corpus=asked, show=False)


def clocked(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    made = work()
    return time.perf_counter() - started, made


def ratio(found: dict[str, Any], what: str) -> float:
    said, took = (statistics.median(one[what] for one in found[side]) for side in ("estimate", "truth"))
    return said / took


def line(found: dict[str, Any]) -> list[str]:
    said, took = found["estimate"], found["truth"]
    sizes = [
        "" if side[0]["bytes"] is None else f"{statistics.median(one['bytes'] for one in side) / 1e6:.1f}"
        for side in (said, took)
    ]
    return [
        found["model"],
        found["of"],
        spread([one["seconds"] for one in said]),
        spread([one["seconds"] for one in took]),
        f"{ratio(found, 'seconds'):.2f}",
        spread([one["probe"] for one in said]),
        *sizes,
    ]


if __name__ == "__main__":
    main()
