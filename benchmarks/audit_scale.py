"""What the audits cost on 200,000 rows: seconds, CPU minutes and peak memory of each, within a stated budget.

    python benchmarks/audit_scale.py [--rows 200000] [--budget 10m] [--what mislabels,duplicates]

The rows are windows of 8 to 30 words of AG News articles, which overlap, with 5% of their labels flipped; a TextCNN of
one epoch. Each audit is a process of its own, as a user runs it, and builds what it needs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from report import WORK, data_folder, heading, quiet_environment, table

AUDITS = ("mislabels", "duplicates", "lexical-bias", "poison")
PARTS = ("train", "train_extra_lowercased", "test")
FLIPPED = 0.05


def articles(part: str) -> list[tuple[list[str], Any]]:
    with gzip.open(data_folder() / "ag_news" / f"{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["text"].split(), row["label"]) for row in rows if len(row["text"].split()) > 8]


def write_rows(path: Path, count: int, seed: int, parts: tuple[str, ...], flipped: float) -> list[bool]:
    """Windows of articles; tells which of them carry a wrong label."""
    import numpy as np

    rng = np.random.default_rng(seed)
    found = [article for part in parts for article in articles(part)]
    labels = sorted({label for _, label in found})
    wrong = []
    with path.open("w", encoding="utf-8") as out:
        for _ in range(count):
            words, label = found[rng.integers(len(found))]
            length = int(rng.integers(8, 31))
            start = int(rng.integers(max(len(words) - length, 0) + 1))
            wrong.append(bool(rng.random() < flipped))
            given = labels[(labels.index(label) + int(rng.integers(1, len(labels)))) % len(labels)]
            row = {"text": " ".join(words[start : start + length]), "label": given if wrong[-1] else label}
            out.write(json.dumps(row) + "\n")
    return wrong


def called(*words: str | Path) -> tuple[str, float, float, float]:
    """Run headwater; return what it printed, wall seconds, CPU seconds and the peak of its memory in GB."""
    began = time.monotonic()
    command = [str(Path(sys.executable).parent / "headwater"), *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=quiet_environment(2), text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed\n{printed}")
    return printed, time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--what", default=",".join(AUDITS))
    options = parser.parse_args()
    title = heading(f"Audits of {options.rows:,} rows")
    folder = WORK / "audit-scale"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wrong = write_rows(folder / "train.jsonl", options.rows, 0, PARTS[:2], FLIPPED)
    write_rows(folder / "held.jsonl", 2000, 1, PARTS[2:], 0.0)
    rows = ["--data", folder / "train.jsonl", "--eval", folder / "held.jsonl", "--max-length", "64"]
    run = folder / "run"
    steps = {
        "train": ["train", *rows, "--model", "textcnn", "--epochs", "1", "--checkpoints", "1", "--out", run],
        "index": ["index", run],
    }
    steps |= {what: ["audit", run, what, "--budget", options.budget, "--json"] for what in options.what.split(",")}
    lines, said = [], []
    for what, words in steps.items():
        printed, wall, cpu, peak = called(*words)
        lines.append([what, f"{wall:,.0f}", f"{cpu / 60:,.1f}", f"{peak:.1f}"])
        if words[0] == "audit":
            said.append(f"- {what}: {told(json.loads(printed), wrong if what == 'mislabels' else None)}")
        print(title, "\n", flush=True) if what == "train" else None
        print(" | ".join(lines[-1]), flush=True)
    print("\n" + table(["", "s", "CPU min", "peak GB"], lines) + "\n\n" + "\n".join(said))


def told(found: dict[str, Any], wrong: list[bool] | None) -> str:
    """What the audit says of itself; of wrong labels also how many of its first 50 rows are wrong indeed."""
    text = " ".join([found["summary"], *found["notes"]])
    if wrong is None:
        return text
    first = [each["row"] for each in found["suspects"][:50]]
    return f"{sum(wrong[row] for row in first)} of the first {len(first)} rows are wrong. {text}"


if __name__ == "__main__":
    main()
