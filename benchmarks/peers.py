"""Side by side: TracIn on the embedding layer by Headwater and by the libraries that can do it at all.

Every library runs in an environment and a process of its own on the same files (see setting.py), interleaved and
repeated. Imports are told apart. "cold" is all the rest: load the models, pass over the training rows, pass over the
queries, score; Headwater also writes its index to disk and reads its texts, which the others get as ready ids.
"again" is what as many new queries cost once their gradients are in hand.

    python benchmarks/peers.py [--queries 10 100] [--threads 1 2] [--repeats 3] [--quick] [--resume]

The first run makes the environments and the setting under benchmarks/.work and keeps them.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from peers.compare import ENTRIES, JOIN, Entry, Found, Outcome, describe, goals_of
from peers.environments import PACKAGES, environment
from report import WORK, heading, quiet_environment, save

HERE = Path(__file__).resolve().parent
ROWS, QUICK_ROWS = 1_000, 64


def main() -> None:
    options = parse()
    rows = QUICK_ROWS if options.quick else ROWS
    setting = make_setting(rows, max(options.queries))
    truth = dense_truth(setting, max(options.queries))
    pythons = {"": Path(sys.executable)}
    pythons |= {name: environment(WORK, name) for name in PACKAGES if name in wanted_environments(options.only)}
    title = heading("Side by side with other libraries", {})
    runs = WORK / "peers-runs" / f"{rows}"
    if not options.resume:
        shutil.rmtree(runs, ignore_errors=True)
    found = run_all(options, setting, runs, pythons)
    print(title + ", ".join(versions_of(found)))
    print("setting: " + " ".join((setting / "setting.json").read_text().split()))
    goals = []
    for (threads, queries), here in found.items():
        print(f"\n### N = {rows:,}, Q = {queries}, {threads} thread{'s' if threads > 1 else ''}\n")
        print(describe(here, truth))
        goals += [] if options.quick else goals_of(here, queries, threads, truth)
    print("", *goals, sep="\n")
    print(save("peers-quick" if options.quick else "peers", as_json(found)))
    if missing := [name for name in options.only if any(name not in here for here in found.values())]:
        raise SystemExit(f"failed (see above): {', '.join(missing)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, nargs="+", help="numbers of queries (default 10 100)")
    parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads (default 1 2)")
    parser.add_argument("--repeats", type=int, help="runs of each library (default 3; captum once)")
    parser.add_argument("--only", nargs="+", choices=list(ENTRIES), default=list(ENTRIES), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="64 rows, 10 queries, 1 thread, once: does all of it run?")
    parser.add_argument("--resume", action="store_true", help="keep what an interrupted benchmark measured")
    options = parser.parse_args()
    options.queries = options.queries or ([10] if options.quick else [10, 100])
    options.threads = options.threads or ([1] if options.quick else [1, 2])
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


def wanted_environments(names: list[str]) -> set[str]:
    return {ENTRIES[name].environment for name in names}


def make_setting(rows: int, queries: int) -> Path:
    folder = WORK / f"setting-{rows}-{queries}"
    command = [sys.executable, str(HERE / "setting.py"), str(folder), "--rows", str(rows), "--queries", str(queries)]
    if problem := call(command, threads=1):
        raise SystemExit(problem)
    return folder


def dense_truth(setting: Path, queries: int) -> np.ndarray:
    """Scores [Q, 16] by dense autograd, computed once a setting."""
    out = setting / "truth"
    made = (setting / "setting.json").stat().st_mtime
    if not (out / "result.json").exists() or (out / "result.json").stat().st_mtime < made:
        command = worker_command(Path(sys.executable), ENTRIES[JOIN], setting, out, queries, mode="truth")
        if problem := call(command, threads=1):
            raise SystemExit(problem)
    return np.load(out / "scores.npy")


def run_all(
    options: argparse.Namespace, setting: Path, runs: Path, pythons: dict[str, Path]
) -> dict[tuple[int, int], Found]:
    """Run one process at a time, the libraries taking turns; what fails is told and left out. By (threads, Q)."""
    turns = [
        (repeat, threads, queries, ENTRIES[name])
        for repeat in range(options.repeats)
        for threads in options.threads
        for queries in options.queries
        for name in options.only
        if repeat == 0 or not ENTRIES[name].slow
    ]
    found: dict[tuple[int, int], Found] = {}
    for number, (repeat, threads, queries, entry) in enumerate(turns):
        out = runs / f"{entry.worker}-{entry.mode or 'only'}-q{queries}-t{threads}-r{repeat}"
        label = f"[{number + 1}/{len(turns)}] {entry.name}, Q={queries}, {threads} thread(s), run {repeat + 1}"
        here = found.setdefault((threads, queries), {})
        if not (out / "result.json").exists():
            shutil.rmtree(out, ignore_errors=True)
            command = worker_command(pythons[entry.environment], entry, setting, out, queries)
            if problem := call(command, threads=threads):
                print(f"{label}: FAILED\n{problem}", file=sys.stderr, flush=True)
                continue
        outcome = Outcome.read(entry, out)
        here.setdefault(entry.name, []).append(outcome)
        print(f"{label}: cold {outcome.cold:.2f} s", file=sys.stderr, flush=True)
    return found


def worker_command(
    python: Path, entry: Entry, setting: Path, out: Path, queries: int, mode: str | None = None
) -> list[str]:
    script = HERE / "peers" / f"worker_{entry.worker}.py"
    given = {"--setting": setting, "--out": out, "--queries": queries, "--mode": entry.mode if mode is None else mode}
    return [str(python), str(script), *[str(part) for pair in given.items() for part in pair]]


def call(command: list[str], *, threads: int) -> str:
    """Run a process quietly; returns the end of its error output if it fails, else nothing."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=quiet_environment(threads))
    if done.returncode == 0:
        return ""
    seconds = time.perf_counter() - started
    return f"{' '.join(command)}: exit code {done.returncode} after {seconds:.1f} s\n{done.stderr.strip()[-1500:]}"


def versions_of(found: dict[tuple[int, int], Found]) -> list[str]:
    """Every package with its versions: one, if all environments agree."""
    versions: dict[str, set[str]] = {}
    for here in found.values():
        for outcomes in here.values():
            for name, version in outcomes[-1].versions.items():
                versions.setdefault(name, set()).add(version)
    return [f"{name} {' / '.join(sorted(versions[name]))}" for name in sorted(versions)]


def as_json(found: dict[tuple[int, int], Found]) -> dict[str, object]:
    """The raw numbers: everything but the scores."""
    return {
        f"threads={threads} queries={queries}": {
            name: [
                {"cold": run.cold, "cpu": run.cpu, "again": run.again, "peak": run.peak, "disk": run.disk}
                | {"phases": run.phases, "versions": run.versions, "notes": run.notes}
                for run in outcomes
            ]
            for name, outcomes in here.items()
        }
        for (threads, queries), here in found.items()
    }


if __name__ == "__main__":
    main()
