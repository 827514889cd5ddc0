"""The constants of docs/scale.md: bytes a row, rows a second of a build, bytes a second of a search; all of one core.

MiniLM (22.7 million parameters, 384 wide), AG News cut at 64 tokens, one checkpoint, one thread. Seconds are CPU
seconds: the machine is shared. From them, what 1e9 rows take, at the prices that are assumed.

    python benchmarks/scale.py [--rows 384] [--queries 32] [--billions 1] [--checkpoints 1]
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

from report import WORK, heading, save, table, use_threads

if TYPE_CHECKING:
    from headwater import Index

STORED: dict[str, dict[str, Any]] = {
    "float16": {"dtype": "float16"},
    "int8, energy 0.999": {"dtype": "int8", "energy": 0.999},
}
CORE_HOUR = 0.04
"""Assumed: dollars an hour of a core of a general-purpose cloud machine with 4 GB of memory a core, on demand."""
SPOT = 0.4
"""Assumed: what interruptible machines cost of that."""
BUCKET_GB_MONTH, DISK_GB_MONTH, PUT = 0.023, 0.08, 5e-6
"""Assumed: dollars for a GB-month in a bucket and on a solid-state disk, and for writing one object."""
DISK = 1e9
"""Assumed: bytes a second that a node reads from its own disk."""
NODE_CORES, BUILD_NODES, RANGE = 32, 100, 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=384)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--billions", type=float, default=1.0)
    parser.add_argument("--checkpoints", type=int, default=1)
    options = parser.parse_args()
    use_threads(1)
    os.environ["HEADWATER_QUIET"] = "1"
    title = heading("What a billion rows take")
    measured = {name: measure(options.rows, options.queries, stored) for name, stored in STORED.items()}
    print(title, "\n\nMeasured\n")
    columns = ["stored as", "bytes a row", "rows/s of a core", "bytes a query reads of a row", "GB/s of a core"]
    print(table(columns, [measured_line(name, found) for name, found in measured.items()]))
    print(f"\nOn paper: {options.billions:g}e9 rows, {options.checkpoints} checkpoint(s)\n")
    columns = [
        "stored as",
        "TB",
        "core hours",
        f"hours, {BUILD_NODES} x {NODE_CORES} cores",
        "$ spot",
        "$/month bucket",
    ]
    columns += ["TB a query reads", "nodes for 10 s", "s, one query, 100 nodes"]
    count = options.billions * 1e9 * options.checkpoints
    print(table(columns, [paper_line(name, found, count) for name, found in measured.items()]))
    print(save("scale", measured))


def measure(rows: int, queries: int, stored: dict[str, Any]) -> dict[str, float]:
    """Build an index and ask it each query on its own."""
    from headwater import Index
    from workloads import ag_news, ag_news_test, minilm_run

    run = minilm_run("scale", ag_news(rows))
    folder = WORK / "indexes" / "scale"
    shutil.rmtree(folder, ignore_errors=True)
    Index.build(run, folder, checkpoints="last", **stored).scores("warm up")
    shutil.rmtree(folder)
    started = time.process_time()
    index = Index.build(run, folder, checkpoints="last", **stored)
    built = time.process_time() - started
    read, seconds = searched(index, [example["text"] for example in ag_news_test(queries)])
    shutil.rmtree(folder)
    return {"bytes": index.bytes / rows, "rows": rows / built, "read": read / queries / rows, "rate": read / seconds}


def searched(index: Index, texts: list[str]) -> tuple[float, float]:
    """Bytes of the postings of the queries' words, and the CPU seconds that joining them took."""
    import numpy as np

    from headwater.gradients import encoded_batches, fold_places, place_gradients
    from headwater.store import Store, join, postings_in_memory

    store, run = Store.open(index.folder), index.run
    model = run.checkpoints[-1].load().requires_grad_(False)
    stored = store.manifest.checkpoints[-1]
    bytes_read = seconds = 0.0
    for text in texts:
        from headwater import Corpus

        corpus = Corpus.read([{"text": text, "label": index.corpus[0].label}])
        encodings = run.task.encode(run.tokenizer, corpus.rows(0, 1))
        targets = run.task.targets([corpus[0].label], model.config, where="query")
        (places,) = place_gradients(model, encoded_batches(run, encodings, targets), run.task.losses)
        asked = postings_in_memory(fold_places(places))
        for segment in store.segments(stored):
            held = segment.postings
            width = held.payload.shape[1] * held.payload.element_size() + 9 + (held.exponents is not None)
            bytes_read += width * sum(
                held.span(int(token)).stop - held.span(int(token)).start for token in asked.tokens
            )
            scores = np.zeros((1, len(index)), dtype=np.float32)
            started = time.process_time()
            join(scores, asked, segment, 1.0)
            seconds += time.process_time() - started
    return bytes_read, seconds


def measured_line(name: str, found: dict[str, float]) -> list[str]:
    return [
        name,
        f"{found['bytes']:,.0f}",
        f"{found['rows']:.1f}",
        f"{found['read']:,.0f}",
        f"{found['rate'] / 1e9:.2f}",
    ]


def paper_line(name: str, found: dict[str, float], rows: float) -> list[str]:
    """One row of the table: size, cost of the build, and what a query reads."""
    size, hours = found["bytes"] * rows, rows / found["rows"] / 3600
    dollars = hours * CORE_HOUR * SPOT + rows / RANGE * PUT
    read = found["read"] * rows
    rate = min(DISK, found["rate"] * NODE_CORES)
    return [
        name,
        f"{size / 1e12:,.2f}",
        f"{hours:,.0f}",
        f"{hours / NODE_CORES / BUILD_NODES:,.1f}",
        f"{dollars:,.0f}",
        f"{size / 1e9 * BUCKET_GB_MONTH:,.0f}",
        f"{read / 1e12:,.3f}",
        f"{max(1, read / rate / 10):,.0f}",
        f"{read / rate / 100:,.1f}",
    ]


if __name__ == "__main__":
    main()
