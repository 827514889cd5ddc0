"""What building an index costs beyond the pass that any method needs.

Interleaved in one process, A B A B: `Index.build` of a run (encode, batch, pass, fold, write, checksum, fsync), and
the bare forward + activation-backward pass over the same batches, made beforehand. Goals: a build takes at most 1.05
times the bare pass for MiniLM (64 tokens), and 1.5 times for TextCNN (128 tokens), whose pass is so cheap.

    python benchmarks/build.py [--models minilm textcnn] [--rows 1024] [--repeats 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from report import WORK, Goal, heading, save, spread, table, use_threads

if TYPE_CHECKING:
    from headwater import Run

GOALS = {"minilm": 1.05, "textcnn": 1.5}
ROWS = {"minilm": 1_024, "textcnn": 8_192}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(GOALS), default=list(GOALS))
    parser.add_argument("--rows", type=int, help="rows of AG News (default: 1,024 for MiniLM, 8,192 for TextCNN)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    use_threads(options.threads)
    title = heading("Building an index against the bare pass")
    measured = {name: measure(name, options.rows or ROWS[name], options.repeats) for name in options.models}
    print(title, "\n")
    columns = ["model", "rows", "build s", "bare s", "build / bare", "of CPU s", "index MB"]
    print(table(columns, [line(name, found) for name, found in measured.items()]), "\n")
    for name, found in measured.items():
        ratio = middle(found, "build", "wall") / middle(found, "bare", "wall")
        print(Goal(f"build / bare pass, {name}", ratio, GOALS[name], at_least=False))
    print(save("build", measured))


def measure(name: str, rows: int, repeats: int) -> dict[str, Any]:
    """Seconds of builds and bare passes in turns, after one pass of each over a few batches to warm up."""
    from workloads import AG_NEWS, ag_news, minilm_run, textcnn_run

    examples = ag_news(rows)
    run = minilm_run("build-minilm", examples) if name == "minilm" else textcnn_run("build-textcnn", examples, AG_NEWS)
    bare = bare_passes(run)
    bare(4)
    build(replace(run, corpus=run.corpus.take(range(min(64, rows)))))  # warm up: imports, memory pools
    found: dict[str, Any] = {"rows": rows, "build": [], "bare": []}
    for _ in range(repeats):
        found["build"].append(clocked(lambda: found.update(bytes=build(run))))
        found["bare"].append(clocked(lambda: bare(None)))
    return found


def build(run: Run) -> int:
    """Build the index from nothing; returns its bytes."""
    from headwater import Index

    folder = WORK / "indexes" / run.folder.name
    shutil.rmtree(folder, ignore_errors=True)
    size = Index.build(run, folder).bytes
    shutil.rmtree(folder)
    return size


def bare_passes(run: Run) -> Callable[[int | None], None]:
    """Make the very batches of a build; returns the function that passes over the first so many (None: all)."""
    from bare import bare_pass
    from headwater.gradients import encoded_batches
    from headwater.store import RANGE_ROWS

    model = run.checkpoints[0].load().requires_grad_(False)
    embedding = model.get_input_embeddings()
    batches = []
    for start in range(0, len(run.corpus), RANGE_ROWS):
        examples = run.corpus.rows(start, min(start + RANGE_ROWS, len(run.corpus)))
        targets = run.task.targets([example.label for example in examples], model.config, where="corpus")
        batches += encoded_batches(run, run.task.encode(run.tokenizer, examples), targets)

    def passes(count: int | None) -> None:
        for batch in batches[:count]:
            bare_pass(model, embedding, batch.inputs, batch.targets)

    return passes


def clocked(work: Callable[[], object]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def middle(found: dict[str, Any], what: str, clock: str) -> float:
    return statistics.median(once[clock] for once in found[what])


def line(name: str, found: dict[str, Any]) -> list[str]:
    """One row of the table; the ratio's spread is over neighbouring pairs (build, bare)."""
    pairs = [
        [build[clock] / bare[clock] for build, bare in zip(found["build"], found["bare"], strict=True)]
        for clock in ("wall", "cpu")
    ]
    return [
        name,
        f"{found['rows']:,}",
        spread([once["wall"] for once in found["build"]]),
        spread([once["wall"] for once in found["bare"]]),
        spread(pairs[0], 3),
        spread(pairs[1], 3),
        f"{found['bytes'] / 1e6:.1f}",
    ]


if __name__ == "__main__":
    main()
