"""Layer gradients of linear layers, projected to 16 x 16 a layer, against a plain forward and backward pass.

MiniLM (4 labels) and SmolLM2-135M (next-token loss) on the same AG News rows of at most 64 tokens, in the same batches,
with as many threads. Plain is autograd with parameter gradients, as a training step has them. Goal: projected capture
of all linear layers in at most 1.5 times its seconds. Beside it, on the linear layers of the blocks (the pooler and the
heads are not for all of them), dattri-LLM and Bergson, each in an environment of its own; and Captum's TracInCPFast,
whose work is another one: the last layer alone, scores at once, nothing kept.

All processes are ready before the clock starts and take turns: one pass each, again and again. Dot products of the
projected rows are held against exact ones, and against Headwater's (rank correlation over pairs of rows).

    python benchmarks/layers.py [--models minilm smollm2] [--rows N] [--peers dattri-llm bergson captum] [--repeats 3]

The first run makes the environments under benchmarks/.work and keeps them. `--peers` alone leaves all of them out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from peers.environments import environment
from report import WORK, Goal, heading, quiet_environment, save, spread, table, use_threads

HERE = Path(__file__).resolve().parent
ROWS = {"minilm": 192, "smollm2": 48}
BOUND = 1.5


@dataclass(frozen=True)
class Entry:
    """One line of the table: a library in one way of using it."""

    name: str
    layers: str
    worker: str
    mode: str = ""
    peer: str = ""
    """Its environment; empty: the one that runs the benchmark."""
    only: str = ""
    """The one model that it is run on, if not both."""


PLAIN, ALL, BLOCKS, LAST, CAPTUM = "plain pass", "headwater", "headwater, blocks", "headwater, last", "captum fast"
ENTRIES = (
    Entry(PLAIN, "-", "plain"),
    Entry(ALL, "all", "headwater", "all"),
    Entry(BLOCKS, "blocks", "headwater", "blocks"),
    Entry("dattri-llm", "blocks", "dattri_llm", "plain", "dattri-llm", only="minilm"),
    Entry("dattri-llm, frozen", "blocks", "dattri_llm", "frozen", "dattri-llm"),
    Entry("bergson", "blocks", "bergson", peer="bergson"),
    Entry(LAST, "last", "headwater", "last", only="minilm"),
    Entry(CAPTUM, "last", "captum", peer="captum", only="minilm"),
)
PEERS = sorted({entry.peer for entry in ENTRIES} - {""})


@dataclass
class Measured:
    """One line's passes over all rows, in their order, and what its process told at its end."""

    entry: Entry
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    dots: np.ndarray | None = None  # [N, N]; of captum [1, N]


class Worker:
    """A process that passes over the rows whenever it is asked."""

    def __init__(self, entry: Entry, python: Path, setting: Path, out: Path, threads: int) -> None:
        self.measured = Measured(entry)
        self._out = out
        self._errors = out / "errors.txt"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                worker_command(python, entry, setting, out),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=quiet_environment(threads),
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def ready(self) -> None:
        self._answer()

    def turn(self) -> None:
        assert self._process.stdin is not None
        print("once", file=self._process.stdin, flush=True)
        seconds = self._answer()
        self.measured.wall.append(seconds["wall"])
        self.measured.cpu.append(seconds["cpu"])

    def finish(self) -> Measured:
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait():
            raise SystemExit(self._problem())
        found = self.measured
        found.told = json.loads((self._out / "result.json").read_text())
        dots = self._out / "dots.npy"
        found.dots = np.load(dots) if dots.exists() else None
        return found

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            if text.startswith("{"):  # some libraries print while they are imported
                answer: dict[str, Any] = json.loads(text)
                return answer
        self._process.wait()
        raise SystemExit(self._problem())

    def _problem(self) -> str:
        return f"{self.measured.entry.name} failed:\n{self._errors.read_text()[-2500:]}"


def main() -> None:
    options = parse()
    use_threads(options.threads)
    pythons = {"": Path(sys.executable)} | {name: environment(WORK, name) for name in options.peers}
    title = heading("Layer gradients against a plain pass", {})
    found = {model: measure(model, options, pythons) for model in options.models}
    print(title + ", ".join(versions_of(found)))
    threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
    for model, (lines, exact, setting) in found.items():
        numbers = json.loads((setting / "setting.json").read_text())
        print(f"\n### {model}: {numbers['rows']} rows in batches of {numbers['batch']}, {threads}\n")
        print(describe(lines, exact))
    print()
    for model, (lines, exact, _) in found.items():
        print(
            Goal(f"headwater, all linear layers / plain pass, {model}", times(lines, ALL, PLAIN), BOUND, at_least=False)
        )
        for answer in stated(lines, exact, model):
            print(answer)
    print(save("layers", {model: as_json(lines) for model, (lines, _, _) in found.items()}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--rows", type=int, help="rows of AG News (default: 192 for MiniLM, 48 for SmolLM2)")
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, default=PEERS, help="other libraries (none: leave them out)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="passes of each, in turns")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def measure(
    model: str, options: argparse.Namespace, pythons: dict[str, Path]
) -> tuple[dict[str, Measured], dict[str, np.ndarray], Path]:
    """Every line's passes, the exact dot products of some rows, and where the rows are."""
    from layer_rows import make_rows

    count = options.rows or ROWS[model]
    told(f"{model}: rows and exact dot products")
    setting = make_rows(WORK / f"layers-{model}-{count}", model, count)
    exact = exact_dots(setting, Path(sys.executable), options.threads)
    entries = [entry for entry in ENTRIES if entry.only in ("", model) and entry.peer in pythons]
    with ExitStack() as stack:
        told(f"{model}: {len(entries)} processes get ready")
        workers = []
        for entry in entries:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-layers-")))
            worker = Worker(entry, pythons[entry.peer], setting, out, options.threads)
            workers.append(stack.enter_context(worker))
        for worker in workers:
            worker.ready()
        for repeat in range(options.repeats):
            for worker in workers:
                worker.turn()
            walls = ", ".join(f"{worker.measured.entry.name} {worker.measured.wall[-1]:.1f}" for worker in workers)
            told(f"{model}, turn {repeat + 1} of {options.repeats}: {walls} s")
        lines = {worker.measured.entry.name: worker.finish() for worker in workers}
    return lines, exact, setting


def exact_dots(setting: Path, python: Path, threads: int) -> dict[str, np.ndarray]:
    """Computed once for these rows: over the blocks, over all layers, and which rows."""
    out = setting / "truth"
    made = (setting / "setting.json").stat().st_mtime
    if not (out / "rows.npy").exists() or (out / "rows.npy").stat().st_mtime < made:
        command = worker_command(python, Entry("truth", "-", "plain", "truth"), setting, out)
        done = subprocess.run(command, capture_output=True, text=True, env=quiet_environment(threads))
        if done.returncode:
            raise SystemExit(done.stderr[-2500:])
    return {name: np.load(out / f"{name}.npy") for name in ("blocks", "all", "rows")}


def worker_command(python: Path, entry: Entry, setting: Path, out: Path) -> list[str]:
    script = HERE / "peers" / f"layer_{entry.worker}.py"
    return [str(python), str(script), "--setting", str(setting), "--out", str(out), "--mode", entry.mode]


def told(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def describe(lines: dict[str, Measured], exact: dict[str, np.ndarray]) -> str:
    """The table of one model. Ratios are of neighbours in a turn."""
    columns = ["gradients", "layers", "s", "x plain", "CPU s", "x plain", "bytes a row", "peak GB"]
    rows = []
    for name, found in lines.items():
        kept = name not in (PLAIN, CAPTUM)
        layers = found.told["notes"].get("layers")
        rows.append(
            [
                name,
                "-" if layers is None else f"{layers} ({found.entry.layers})",
                spread(found.wall),
                spread(pairs(lines, name, PLAIN, "wall")),
                spread(found.cpu),
                spread(pairs(lines, name, PLAIN, "cpu")),
                f"{found.told['row_bytes']:,}" if kept else "-",
                f"{found.told['peak'] / 1e9:.2f}",
                *agreement(lines, name, exact),
            ]
        )
    return table([*columns, "rank corr. exact", "with ours"], rows)


def pairs(lines: dict[str, Measured], name: str, other: str, clock: str) -> list[float]:
    """Times what `other` took in the same turn."""
    return [one / two for one, two in zip(getattr(lines[name], clock), getattr(lines[other], clock), strict=True)]


def times(lines: dict[str, Measured], name: str, other: str) -> float:
    return statistics.median(pairs(lines, name, other, "wall"))


def agreement(lines: dict[str, Measured], name: str, exact: dict[str, np.ndarray]) -> list[str]:
    """Rank correlations of dot products over pairs of different rows: with exact ones, and with Headwater's."""
    found = lines[name]
    if found.dots is None or found.entry.layers not in ("all", "blocks"):
        return ["-", "-"]
    some = exact["rows"]
    cells = [f"{rank_correlation(found.dots[np.ix_(some, some)], exact[found.entry.layers]):.3f}"]
    ours = lines[BLOCKS].dots
    beside = found.entry.layers == "blocks" and name != BLOCKS and ours is not None
    return [*cells, f"{rank_correlation(found.dots, ours):.3f}" if beside else "-"]


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, over the pairs above the diagonal."""
    from scipy.stats import spearmanr

    upper = np.triu_indices(len(one), k=1)
    return float(spearmanr(one[upper], other[upper]).statistic)


def stated(lines: dict[str, Measured], exact: dict[str, np.ndarray], model: str) -> list[str]:
    """What else the turns say: Headwater against each library, and that Captum's scores are those of the last layer."""
    answers = [
        f"stated: {name} / {BLOCKS}, {model}: {times(lines, name, BLOCKS):.3g}"
        for name, found in lines.items()
        if found.entry.layers == "blocks" and found.entry.peer
    ]
    if CAPTUM in lines:
        theirs, ours = lines[CAPTUM].dots, lines[LAST].dots
        assert theirs is not None and ours is not None
        error = float(np.abs(theirs[0] - ours[0]).max() / np.abs(ours[0]).max())
        line_ = f"stated: {CAPTUM} / {LAST}, {model}: {times(lines, CAPTUM, LAST):.3g}"
        answers.append(f"{line_}; its scores differ by {error:.0e} of the largest")
    return answers


def versions_of(found: dict[str, tuple[dict[str, Measured], Any, Path]]) -> list[str]:
    versions: dict[str, set[str]] = {}
    for lines, _, _ in found.values():
        for line_ in lines.values():
            for name, version in line_.told["versions"].items():
                versions.setdefault(name, set()).add(version)
    return [f"{name} {' / '.join(sorted(versions[name]))}" for name in sorted(versions)]


def as_json(lines: dict[str, Measured]) -> dict[str, Any]:
    return {name: {"wall": found.wall, "cpu": found.cpu, **found.told} for name, found in lines.items()}


if __name__ == "__main__":
    main()
