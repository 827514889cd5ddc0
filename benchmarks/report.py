"""What every benchmark prints: the machine, the versions, one table with median and spread, and the goals."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "benchmarks" / ".work"
"""Everything that benchmarks make; git-ignored, safe to delete."""

PACKAGES = ("headwater", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def quiet_environment(threads: int = 1) -> dict[str, str]:
    """The environment of a measured process: so many threads that sleep when idle, no network, no progress bars."""
    numbers = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
    fixed = {
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false" if threads == 1 else "true",
        "HEADWATER_QUIET": "1",
        "PYTHONWARNINGS": "ignore",
    }
    return {**os.environ, **fixed, **numbers}


def use_threads(threads: int) -> None:
    """Put this process in the quiet environment; must be called before torch is imported."""
    if "torch" in sys.modules:
        raise RuntimeError("use_threads() must come before torch is imported")
    os.environ.update(quiet_environment(threads))
    warnings.simplefilter("ignore")


def heading(title: str, versions: Mapping[str, str] | None = None) -> str:
    """Title, command, machine and versions: what a reader needs to run it again."""
    found = versions if versions is not None else installed(PACKAGES)
    lines = [
        f"## {title}",
        f"command: `python {shlex.join([_shown(sys.argv[0]), *sys.argv[1:]])}`",
        f"machine: {machine()}",
    ]
    if load := busy():
        lines.append(f"NOT A QUIET MACHINE: {load}. Trust ratios of CPU seconds more than seconds.")
    lines.append("versions: " + ", ".join(f"{name} {version}" for name, version in sorted(found.items())))
    return "\n".join(lines)


def machine() -> str:
    """CPU model, cores, memory, Python."""
    model = platform.machine()
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return f"{model}, {os.cpu_count()} cores, {memory / 2**20:.0f} GiB, Python {platform.python_version()}"


def busy() -> str:
    """Say so when others were computing here in the last minute; empty on a quiet machine."""
    load = os.getloadavg()[0]
    return f"load average {load:.1f} at the start" if load > 0.7 else ""


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that are installed here."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and the least and the most when there are several: "3.41 (3.38-3.60)"."""
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads well in a terminal too; numbers to the right."""
    cells = [list(columns), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    ruler = "|" + "|".join("-" * (width + 1) + ("-" if n == 0 else ":") for n, width in enumerate(widths)) + "|"
    return "\n".join([line(cells[0]), ruler, *[line(row) for row in cells[1:]]])


@dataclass(frozen=True)
class Goal:
    """A ratio that we said we would reach, and what came out. `at_least` False: it must not be above."""

    name: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"goal {sign} {self.bound:g}: {self.name}: {self.value:.3g} ({'met' if self.met else 'NOT met'})"


def save(name: str, result: Mapping[str, Any]) -> Path:
    """Keep a benchmark's raw numbers as JSON under .work/results."""
    path = WORK / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def data_folder() -> Path:
    """Where the shared data lies: $HEADWATER_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("HEADWATER_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no data here. Set HEADWATER_DATA to the folder that holds ag_news/ and sst2/.")
    return folder


def _shown(path: str) -> str:
    absolute = Path(path).resolve()
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else path


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
