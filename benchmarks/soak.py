"""A soak: builds, growth, compactions and queries for some minutes, with writers killed at random; then a verdict.

Writers are processes of their own, half of them killed (SIGKILL) at a random moment. This process reads all the while,
also beside a writer: it opens the index, asks, now and then verifies every byte, and compares each score with that of
the same row in an index that nobody disturbed. Nothing may fail; open files and anonymous memory of this process may
not grow. Exit code 1 where something did.

    python benchmarks/soak.py [--minutes 30] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from build_memory import anonymous
from report import WORK, heading, quiet_environment, save, use_threads

if TYPE_CHECKING:
    import numpy as np

    from headwater import Run

UNIVERSE, LEAST, MOST = 600, 100, 400  # distinct rows there are, and how many of them a corpus has
RANGE_ROWS = 64
QUERIES = ["oil prices climb again as supply is cut", "the home team won the final after extra time"]
LABELS = ["Business", "Sports"]
KILLED = 0.5  # of the writers
MEMORY_SLACK = 20e6  # bytes that memory may move without growing
TOLERANCE = 1e-5  # of the largest score: other batches round otherwise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--helper", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    use_threads(1)
    if options.helper:
        help_writing()
        return
    print(heading("Soak"))
    soak = Soak(options.seed)
    try:
        soak.run_for(60 * options.minutes)
    finally:
        soak.helper.stdin.close()
        soak.helper.wait(timeout=60)
    failed = soak.verdict()
    print(save("soak", {"counts": soak.counts, "files": soak.files, "memory": soak.memory, "errors": soak.errors}))
    raise SystemExit(failed)


class Soak:
    """The driver and reader."""

    def __init__(self, seed: int) -> None:
        from workloads import AG_NEWS, ag_news, textcnn_run

        self.drawn = random.Random(seed)
        self.rows = ag_news(UNIVERSE)
        shape = {"hidden_size": 16, "channels": 8, "vocabulary": 2_000, "max_length": 48}
        self.run = textcnn_run("soak", self.rows, AG_NEWS, weights=(1.0, 0.5), **shape)
        self.folder = WORK / "indexes" / "soak"
        self.truth = self._undisturbed()
        command = [sys.executable, __file__, "--helper"]
        self.helper: Any = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet_environment(1)
        )
        self._line()
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self.files: list[int] = []
        self.memory: list[int] = []
        self.patience = 2.0  # seconds that a writer took lately
        self.readable = False

    def run_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._fresh()
        while time.monotonic() < until:
            action = self.drawn.choices(["grow", "compact", "fresh"], [6, 3, 1])[0]
            if action == "fresh":
                self._fresh()
            else:
                self._write(action, self._corpus() if action == "grow" else None, kill=self.drawn.random() < KILLED)
            self._read(verify=self.drawn.random() < 0.2)
            self.files.append(len(list(Path("/proc/self/fd").iterdir())))
            self.memory.append(anonymous())

    def verdict(self) -> int:
        """Print what was done and whether all held; 0 if it did."""
        told = ", ".join(f"{count:,} {name}" for name, count in sorted(self.counts.items()))
        print(f"did: {told}")
        quarter = max(1, len(self.files) // 4)
        files, memory = (
            (statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:]))
            for values in (self.files, self.memory)
        )
        grew = {"open files": files[1] > files[0], "memory": memory[1] > 1.1 * memory[0] + MEMORY_SLACK}
        print(f"open files: {files[0]:.0f} in the second quarter, {files[1]:.0f} in the last")
        print(f"anonymous memory: {memory[0] / 1e6:.1f} MB in the second quarter, {memory[1] / 1e6:.1f} MB in the last")
        failures = [*self.errors, *[f"{name} grew" for name, it_did in grew.items() if it_did]]
        print("verdict: " + (f"FAILED ({len(failures)})" if failures else "held"))
        for failure in failures[:10]:
            print(f"  {failure}")
        return int(bool(failures))

    def _undisturbed(self) -> dict[tuple[str, str], np.ndarray]:
        """Scores of all rows there are, by text and label, from an index that is built once."""
        from headwater import Index

        folder = WORK / "indexes" / "soak-truth"
        shutil.rmtree(folder, ignore_errors=True)
        scores = Index.build(self.run, folder).scores(QUERIES, LABELS)
        self.bound = TOLERANCE * float(abs(scores).max())
        return {(row["text"], row["label"]): scores[:, number] for number, row in enumerate(self.rows)}

    def _corpus(self) -> list[int]:
        """Numbers of rows: some of those that are there go, some come."""
        return sorted(self.drawn.sample(range(UNIVERSE), self.drawn.randint(LEAST, MOST)))

    def _fresh(self) -> None:
        """Build from nothing, again and again until nobody kills it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.readable = False
        rows = self._corpus()
        while not self._write("grow", rows, kill=self.drawn.random() < KILLED):
            self._read()

    def _write(self, action: str, rows: list[int] | None, *, kill: bool) -> bool:
        """Start a writer, read beside it, kill it perhaps; True when it ended well."""
        self._tell({"action": action, "run": str(self.run.folder), "folder": str(self.folder), "rows": rows})
        process, began = int(self._line()), time.monotonic()
        if kill:
            time.sleep(self.patience * self.drawn.uniform(0.0, 1.2))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        else:
            self._read()
        code = int(self._line())
        if code == 0:
            self.patience = 0.8 * self.patience + 0.2 * min(time.monotonic() - began, 10.0)
            self.readable = True
        elif code != -signal.SIGKILL or not kill:
            self.errors.append(f"{action}: the writer ended with {code}")
        self.counts["killed" if code else action] += 1
        return code == 0

    def _read(self, *, verify: bool = False) -> None:
        """Open, ask, compare with the truth."""
        from headwater import Index
        from headwater.errors import StoreError

        try:
            index = Index.open(self.folder, run=self.run)
            if verify:
                index.verify()
                self.counts["verified"] += 1
            scores = index.scores(QUERIES, LABELS)
            for number, example in enumerate(index.corpus.rows(0, len(index))):
                wanted = self.truth[example.text, str(example.label)]
                if abs(scores[:, number] - wanted).max() > self.bound:
                    self.errors.append(f"row {number}: {scores[:, number]}, not {wanted}")
                    return
            index.query(QUERIES[:1], LABELS[:1], k=3)
            self.counts["asked"] += 1
        except StoreError as error:
            if self.readable:
                self.errors.append(f"reading: {error}")
            self.counts["unfinished"] += 1
        except Exception:
            self.errors.append(traceback.format_exc())

    def _tell(self, command: dict[str, Any]) -> None:
        print(json.dumps(command), file=self.helper.stdin, flush=True)

    def _line(self) -> str:
        return str(self.helper.stdout.readline()).strip()


def help_writing() -> None:
    """Fork a writer for each line: a process that has imported everything and done nothing makes quick ones."""
    import headwater.attribution.build
    from headwater import Index, Run  # noqa: F401
    from workloads import ag_news

    headwater.attribution.build.RANGE_ROWS = RANGE_ROWS
    rows = ag_news(UNIVERSE)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                write(json.loads(line), rows)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def write(command: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from headwater import Corpus, Index, Run

    run: Run = Run.open(command["run"])
    if command["action"] == "compact":
        Index.open(command["folder"], run=run).compact()
        return
    Index.build(run, command["folder"], corpus=Corpus.read([rows[number] for number in command["rows"]], name="soak"))


if __name__ == "__main__":
    main()
