"""Growth of an index: 10,000, 100,000 and 1,000,000 rows, built and searched under a limit of anonymous memory.

The rows are real ones with jitter: whole rows of the exact index that `compression.py` makes (MiniLM fine-tuned on
AG News, last checkpoint) are drawn with replacement, each scaled by exp(N(0, 0.2)), each vector moved by 5% of its
length in a random direction. They are stored as int8, energy 0.999. Each size runs in a fresh process under
RLIMIT_DATA, which counts private writable memory and no mapped files; RssAnon is read every 5 ms. Queries are rows that
are not among those drawn from. "build s" is without making the rows; the page cache is warm. Seconds are CPU seconds:
the machine is shared.

    python benchmarks/growth.py [--rows 10000 100000] [--queries 10] [--limit 4] [--threads 1] [--keep]
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from build_memory import Watch
from report import WORK, Goal, heading, quiet_environment, save, table, use_threads

if TYPE_CHECKING:
    from headwater.gradients import TokenGradients
    from headwater.store import Postings, RowRange, Store, StoredCheckpoint
    from headwater.store.pruned import Top

K = 20
BASE = (2_000, 3)  # rows and epochs of compression.py's run
ASKED = 100  # of these rows, the last ones are for queries alone
PIECE = 256  # rows made at a time
NOISE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="at least two sizes")
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--limit", type=float, default=4.0, help="GiB of anonymous memory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="take sizes that an earlier call measured")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    use_threads(options.threads)
    if options.child:
        print(json.dumps(measure(options.child, options)))
        return
    title = heading("Growth of an index")
    kept = WORK / "results" / "growth.json"
    known = {one["rows"]: one for one in json.loads(kept.read_text())["runs"]} if options.keep else {}
    made = [known.get(rows) or in_fresh_process(rows, options) for rows in sorted(options.rows)]
    print(title)
    print(f"limit: {options.limit:g} GiB of anonymous memory; {options.queries} queries, k = {K}, both signs\n")
    columns = [
        "rows",
        "build s",
        "making s",
        "MB",
        "bytes a row",
        "full ms",
        "pruned ms",
        "vector bytes read",
        "peak GB",
    ]
    print(table(columns, [line(one) for one in made]), "\n")
    first, last = made[0], made[-1]
    times = last["rows"] / first["rows"]
    print(Goal("gigabytes of anonymous memory at the worst moment", last["peak"] / 1e9, 4.0, at_least=False))
    print(Goal(f"build, times as long for {times:.3g} times the rows, over {times:.3g}",
               last["build"] / first["build"] / times, 1.25, at_least=False))  # fmt: skip
    print(Goal(f"pruned query, times as long for {times:.3g} times the rows, over {times:.3g}",
               last["pruned"] / first["pruned"] / times, 1.0, at_least=False))  # fmt: skip
    print(f"plot: {plot(made)}\n{save('growth', {'runs': made})}")


def in_fresh_process(rows: int, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(rows), "--queries", str(options.queries)]
    command += ["--limit", str(options.limit), "--threads", str(options.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=quiet_environment(options.threads))
    if done.returncode:
        raise SystemExit(f"{rows:,} rows: the process ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{rows:,} rows: build {found['build']:.0f} s", file=sys.stderr, flush=True)
    return found


def measure(rows: int, options: argparse.Namespace) -> dict[str, Any]:
    from compression import exact_index, trained

    exact = exact_index(trained(*BASE))._members[0].tokens
    assert exact is not None
    resource.setrlimit(resource.RLIMIT_DATA, (int(options.limit * 2**30),) * 2)
    folder = WORK / "indexes" / f"growth-{rows}"
    shutil.rmtree(folder, ignore_errors=True)
    with Watch() as watch:
        store, build, making = built(folder, exact, rows)
        found = searched(store, exact, options.queries)
    size = store.bytes
    shutil.rmtree(folder)
    return {"rows": rows, "build": build, "making": making, "bytes": size, "peak": watch.peak, **found}


def built(folder: Path, exact: Store, rows: int) -> tuple[Store, float, float]:
    """Build a store of so many rows; its seconds, and those of making the rows, apart."""
    from headwater.store import RANGE_ROWS, RowRange, Store, build_store

    source = Source(exact)
    starts = range(0, rows, RANGE_ROWS)
    ranges = tuple(RowRange(at, min(at + RANGE_ROWS, rows), f"drawn {at}") for at in starts)
    last = exact.manifest.checkpoints[-1]
    plan = replace(exact.manifest, ranges=ranges, checkpoints=(last,), dtype="int8", energy=0.999, files={})
    started = time.process_time()
    build_store(folder, plan, source.gradients_of, others={}, kept=lambda _: None)
    took = time.process_time() - started
    return Store.open(folder), took - source.seconds, source.seconds


class Source:
    """Rows of a store, sorted by row, drawn and jittered."""

    def __init__(self, exact: Store) -> None:
        import numpy as np
        import torch

        self.seconds = 0.0
        self.tokens, self.vectors, self.begins = by_row(exact)
        drawn = np.random.default_rng(0)
        self._noise = torch.from_numpy(drawn.standard_normal((4096, self.vectors.shape[1]), dtype=np.float32))
        self._noise /= self._noise.norm(dim=1, keepdim=True)
        self._lengths = self.vectors.norm(dim=1, keepdim=True)

    def gradients_of(self, checkpoint: StoredCheckpoint, rows: RowRange) -> Iterator[TokenGradients]:
        for start in range(rows.start, rows.stop, PIECE):
            started = time.process_time()
            made = self._draw(start, min(PIECE, rows.stop - start))
            self.seconds += time.process_time() - started
            yield made

    def _draw(self, start: int, count: int) -> TokenGradients:
        import numpy as np
        import torch

        from headwater.gradients import TokenGradients

        drawn = np.random.default_rng([1, start])
        rows = drawn.integers(0, len(self.begins) - 1 - ASKED, count)
        lengths = np.diff(self.begins)[rows]
        at = np.concatenate([np.arange(self.begins[row], self.begins[row + 1]) for row in rows])
        scale = np.repeat(np.exp(drawn.normal(0, 0.2, count)), lengths).astype(np.float32)
        places = torch.from_numpy(at)
        noise = self._noise[torch.from_numpy(drawn.integers(0, len(self._noise), len(at)))]
        vectors = self.vectors[places] + NOISE * self._lengths[places] * noise
        numbers = torch.from_numpy(np.repeat(np.arange(start, start + count), lengths))
        return TokenGradients(numbers, self.tokens[places], vectors * torch.from_numpy(scale)[:, None])


def by_row(exact: Store) -> tuple[Any, Any, Any]:
    """Tokens, vectors and where each row begins, of the last checkpoint's rows."""
    import numpy as np
    import torch

    last = exact.manifest.checkpoints[-1]
    rows, tokens, vectors = [], [], []
    for segment in exact.segments(last):
        rows.append(segment.postings.rows.astype(np.int64) + segment.rows.start)
        tokens.append(segment.postings.token_of())
        vectors.append(segment.postings.gradients(slice(None)))
    joined = np.concatenate(rows)
    order = np.lexsort((np.concatenate(tokens), joined))
    begins = np.searchsorted(joined[order], np.arange(exact.manifest.rows + 1))
    return torch.from_numpy(np.concatenate(tokens)[order]), torch.cat(vectors)[torch.from_numpy(order)], begins


def searched(store: Store, exact: Store, queries: int) -> dict[str, Any]:
    """Milliseconds a query of a full scan and of a pruned search, in turns; the same rows must come out."""
    import numpy as np
    import torch

    from headwater.gradients import TokenGradients
    from headwater.store import join, postings_in_memory

    tokens, vectors, begins = by_row(exact)
    (checkpoint,) = store.manifest.checkpoints
    allowed = np.ones(store.manifest.rows, dtype=np.bool_)
    full, pruned, read = [], [], []
    for number in range(queries):
        row = len(begins) - 2 - number
        mine = slice(int(begins[row]), int(begins[row + 1]))
        count = mine.stop - mine.start
        asked = postings_in_memory(TokenGradients(torch.zeros(count, dtype=torch.long), tokens[mine], vectors[mine]))
        scores = np.zeros((1, store.manifest.rows), dtype=np.float32)
        started = time.process_time()
        for segment in store.segments(checkpoint):
            join(scores, asked, segment, 1.0)
        full.append(1000 * (time.process_time() - started))
        started = time.process_time()
        top = prune(store, checkpoint, asked, allowed)
        pruned.append(1000 * (time.process_time() - started))
        read.append(top.touched.share)
        best = np.argpartition(-scores[0], K)[:K]
        missing = set(best.tolist()) - set(top.rows.tolist())
        bound = 1e-4 * float(np.abs(scores).max())
        if any(abs(scores[0, at] - np.sort(scores[0])[-K]) > bound for at in missing):
            raise SystemExit(f"query {number}: the pruned search missed rows {sorted(missing)}")
    return {"full": statistics.median(full), "pruned": statistics.median(pruned), "read": statistics.median(read)}


def prune(store: Store, checkpoint: StoredCheckpoint, asked: Postings, allowed: Any) -> Top:
    import numpy as np

    from headwater.store.pruned import QueryLists, search_pruned

    vectors = asked.gradients(slice(None)).double()
    norms = vectors.norm(dim=1).numpy() * (1 + 1e-9)
    order = np.argsort(asked.token_of())
    lists = QueryLists(list(store.segments(checkpoint)), asked.token_of()[order], vectors[order], norms[order])
    return search_pruned([lists], K, allowed)


def line(found: dict[str, Any]) -> list[str]:
    return [
        f"{found['rows']:,}",
        f"{found['build']:.1f}",
        f"{found['making']:.1f}",
        f"{found['bytes'] / 1e6:,.1f}",
        f"{found['bytes'] / found['rows']:,.0f}",
        f"{found['full']:,.1f}",
        f"{found['pruned']:,.1f}",
        f"{100 * found['read']:.1f}%",
        f"{found['peak'] / 1e9:.2f}",
    ]


def plot(made: list[dict[str, Any]]) -> Path:
    """Build, full scan, pruned search over rows, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    rows = [one["rows"] for one in made]
    left.loglog(rows, [one["build"] for one in made], "o-", label="build")
    left.loglog(rows, [made[0]["build"] * count / rows[0] for count in rows], ":", color="grey", label="in proportion")
    left.set(xlabel="rows", ylabel="seconds")
    for name in ("full", "pruned"):
        right.loglog(rows, [one[name] for one in made], "o-", label=f"{name}, a query")
    right.loglog(rows, [made[0]["pruned"] * count / rows[0] for count in rows], ":", color="grey")
    right.set(xlabel="rows", ylabel="milliseconds")
    for axes in (left, right):
        axes.legend(frameon=False)
    path = WORK / "results" / "growth.svg"
    figure.savefig(path)
    return path


if __name__ == "__main__":
    main()
