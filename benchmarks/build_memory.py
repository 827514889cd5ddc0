"""Anonymous memory (RssAnon) of building an index: it must not grow with the number of rows.

Each size runs in a fresh process: a small TextCNN on SST-2 phrases. A thread reads RssAnon every 5 ms. Told are what
the process held before the build (imports, corpus), and how much more it held at the worst moment of the build.
glibc keeps freed blocks in pieces, which creeps for a while whatever a program does; so each size also runs with
malloc told to give blocks above 128 KiB back at once, which shows what the build itself holds.

    python benchmarks/build_memory.py [--rows 10000 67349]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from report import WORK, Goal, heading, quiet_environment, save, table, use_threads

WIDTH, CHANNELS, LENGTH, VOCABULARY = 64, 32, 64, 10_000
MALLOCS = {
    "as it is": {},
    "gives back": {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 67_349], help="at least two sizes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        use_threads(options.threads)
        print(json.dumps(measure(options.child)))
        return
    title = heading("Memory of a build")
    found = [in_fresh_process(rows, options.threads, malloc) for malloc in MALLOCS for rows in sorted(options.rows)]
    print(title)
    print(f"model: TextCNN {WIDTH} wide, {CHANNELS} channels, at most {LENGTH} tokens; RssAnon in MB\n")
    columns = ["malloc", "rows", "before build", "peak", "peak - before", "index MB", "build s"]
    print(table(columns, [line(one) for one in found]), "\n")
    for malloc in MALLOCS:
        first, *_, last = (one for one in found if one["malloc"] == malloc)
        growth = (last["peak"] - last["before"]) / (first["peak"] - first["before"])
        name = f"peak - before, times as much for {last['rows'] / first['rows']:.3g} times the rows, malloc {malloc}"
        print(Goal(name, growth, 1.25, at_least=False))
    print(save("build-memory", {"runs": found}))


def in_fresh_process(rows: int, threads: int, malloc: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(rows), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=quiet_environment(threads) | MALLOCS[malloc])
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    result: dict[str, Any] = {"malloc": malloc, **json.loads(done.stdout.splitlines()[-1])}
    print(f"{rows:,} rows, malloc {malloc}: build {result['seconds']:.0f} s", file=sys.stderr)
    return result


def measure(rows: int) -> dict[str, Any]:
    from headwater import Index
    from workloads import SST2, sst2_phrases, textcnn_run

    name = f"memory-{rows}"
    run = textcnn_run(
        name,
        sst2_phrases(rows),
        SST2,
        max_length=LENGTH,
        vocabulary=VOCABULARY,
        hidden_size=WIDTH,
        channels=CHANNELS,
    )
    folder = WORK / "indexes" / name
    shutil.rmtree(folder, ignore_errors=True)
    watch = Watch()
    started = time.perf_counter()
    with watch:
        index = Index.build(run, folder)
    seconds = time.perf_counter() - started
    size = index.bytes
    shutil.rmtree(folder)
    return {"rows": rows, "before": watch.before, "peak": watch.peak, "index": size, "seconds": seconds}


class Watch:
    """Samples this process's RssAnon while a block runs."""

    def __init__(self, every: float = 0.005) -> None:
        self.before = self.peak = 0
        self._every = every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watch:
        self.before = self.peak = anonymous()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(self._every):
            self.peak = max(self.peak, anonymous())


def anonymous() -> int:
    """RssAnon of this process, in bytes."""
    for line_ in Path("/proc/self/status").read_text().splitlines():
        if line_.startswith("RssAnon:"):
            return int(line_.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no RssAnon: this benchmark needs Linux")


def line(found: dict[str, Any]) -> list[str]:
    sizes = [found["before"], found["peak"], found["peak"] - found["before"], found["index"]]
    return [found["malloc"], f"{found['rows']:,}", *[f"{size / 1e6:.1f}" for size in sizes], f"{found['seconds']:.1f}"]


if __name__ == "__main__":
    main()
