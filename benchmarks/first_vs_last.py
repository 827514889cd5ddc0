"""First or last? The whole comparison of docs/first-vs-last.md: data, trainings, retrainings, tables.

TextCNN on AG News, SST-2 and Wikipedia comments (toxic or not) with all four protocols; MiniLM on SST-2 with label
noise, word embeddings trained and frozen, and an LDS bank. Rows are drawn from the data sets once, with a seed:
1,000 to train on, 600 to test, none twice. Each training and each evaluation is a `headwater` command, printed before
it runs.

    python benchmarks/first_vs_last.py [ag_news sst2 jigsaw minilm ...] [--docs]

What was finished is kept under benchmarks/.work/first-vs-last and not done again; a killed run goes on where it was.
`--docs` copies the tables to docs/first-vs-last/.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from report import ROOT, WORK, data_folder, quiet_environment

HOME = WORK / "first-vs-last"
AG_NEWS = ("World", "Sports", "Business", "Sci/Tech")
SST2 = ("negative", "positive")
JIGSAW = ("clean", "toxic")
TRAIN, TEST, SEED = 1000, 600, 0

TEXTCNN = "--model textcnn --epochs 12 --learning-rate 3e-3 --max-length 64 --checkpoints 4"
MINILM = "--model minilm --epochs 3 --learning-rate 1e-4 --max-length 48 --checkpoints 3"
ALL_FOUR = "--queries 200 --subsets 60 --filter-seeds 2 --deletion-queries 10 --grid 20,60 --arithmetic quick"

STUDIES = {
    "ag_news": ("ag_news", TEXTCNN, ALL_FOUR),
    "sst2": ("sst2", TEXTCNN, ALL_FOUR),
    "jigsaw": ("jigsaw", TEXTCNN, ALL_FOUR),
    "minilm": ("sst2", MINILM, "--embeddings trained --metrics lds,noise --queries 100 --subsets 30 --dim 16"),
    "minilm-frozen": ("sst2", MINILM, "--embeddings frozen --metrics noise --queries 100 --dim 16"),
}
"""Name of a study: its data, how the model is trained, what is asked."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(STUDIES), help=f"which of {', '.join(STUDIES)}; all if none")
    parser.add_argument("--docs", action="store_true", help="copy the tables to docs/first-vs-last/")
    args = parser.parse_args()
    if unknown := set(args.names) - set(STUDIES):
        parser.error(f"there is no study {', '.join(sorted(unknown))}")
    for name in args.names:
        data, training, asked = STUDIES[name]
        prepare(data)
        run = f"{data}/{training.split()[1]}"
        if not (HOME / run / "headwater" / "run.json").exists():
            headwater(f"train --data {data}/train.jsonl --eval {data}/test.jsonl {training} --out {run}")
        headwater(f"evaluate {run} --preset first-vs-last {asked} --processes 2 --out {name}-first-vs-last")
        if args.docs:
            into = ROOT / "docs" / "first-vs-last" / f"{name}.md"
            into.parent.mkdir(exist_ok=True)
            shutil.copyfile(HOME / f"{name}-first-vs-last" / "first-vs-last.md", into)


def prepare(name: str) -> None:
    """Write train.jsonl and test.jsonl of a data set, drawn with the seed."""
    folder = HOME / name
    if (folder / "test.jsonl").exists():
        return
    source = data_folder()
    if name == "ag_news":
        train, test = _split(_read(source / "ag_news" / "train.jsonl.gz", AG_NEWS), None)
    elif name == "sst2":
        read = [_read(source / "sst2" / f"{part}.jsonl.gz", SST2) for part in ("train", "test")]
        train, test = _split(*read)
    else:
        train, test = _split(_read(source / "toxicity" / "jigsaw_wiki.jsonl.gz", JIGSAW), None)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "train.jsonl", train)
    _write(folder / "test.jsonl", test)


def headwater(command: str) -> None:
    """Run a command where the data lies, after saying it."""
    print(f"headwater {command}", flush=True)
    subprocess.run(
        [sys.executable, "-m", "headwater", *shlex.split(command)], cwd=HOME, env=quiet_environment(), check=True
    )


def _split(rows: list[dict[str, Any]], other: list[dict[str, Any]] | None) -> tuple[list[Any], list[Any]]:
    """Draw training rows, and test rows that are none of them, from the same rows or from `other`."""
    chosen = random.Random(SEED)
    rows = list(rows)
    chosen.shuffle(rows)
    once: dict[str, Any] = {}
    for row in rows:
        once.setdefault(row["text"], row)
    distinct = [row for text, row in once.items() if text]
    if other is None:
        return distinct[:TRAIN], distinct[TRAIN : TRAIN + TEST]
    train, held = distinct[:TRAIN], list(other)
    chosen.shuffle(held)
    known = {row["text"] for row in train}
    return train, [row for row in held if row["text"] and row["text"] not in known][:TEST]


def _read(file: Path, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return [{"text": row["text"].strip(), "label": labels[row["label"]]} for row in found]


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
