"""What a patch mends, and what it breaks: by the index, by representations, by LiSSA, and by random rows.

    python benchmarks/patch.py
    python benchmarks/patch.py --targets 24 --learning-rate 2e-5

MiniLM on 1,500 sentences of SST-2. Each of the first wrong test sentences is patched by itself, from the same
checkpoint; 300 other test sentences say what else changed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import time
from typing import Any

from report import WORK, data_folder, heading, use_threads

use_threads(2)

import numpy as np  # noqa: E402

import headwater as hw  # noqa: E402
from headwater.remedies.patch import BYS, Patching, patch  # noqa: E402
from headwater.training import TrainSettings, predict, train  # noqa: E402

_OTHERS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    print(heading("Patches of one wrong answer each"))
    folder = WORK / "patch"
    shutil.rmtree(folder, ignore_errors=True)
    corpus = hw.Corpus.read(rows("sst2/train.jsonl.gz", 1500), name="train")
    held = hw.Corpus.read(rows("sst2/test.jsonl.gz", 1000), name="held out")
    settings = TrainSettings(model="minilm", epochs=2, max_length=48)
    run = train(corpus, hw.Classification(max_length=48), folder / "run", settings, show=False)
    for method in ("tracin-we", "representation-cosine"):
        hw.Index.build(run, method=method, show=False)
    index = hw.Index.open(run.folder / "index")
    found = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, held, show=False)
    wrong = np.flatnonzero(~found.correct)[: options.targets].tolist()
    others = held.take([row for row in range(len(held)) if row not in wrong][:_OTHERS])
    steps = f"at most {options.steps} steps of 10 rows, and 10 random ones beside them"
    print(f"\naccuracy {found.accuracy:.4f}; {len(wrong)} wrong answers, {steps}\n")
    print("| by | fixed | probability of the right label | broken of 300 | fixed of 300 | accuracy, points | s each |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for by, replay in [*((by, 10) for by in BYS), ("index", 0)]:
        how = Patching(by, replay=replay, steps=options.steps, learning_rate=options.learning_rate, seconds=20.0)
        told: list[Any] = []
        started = time.monotonic()
        for row in wrong:
            told.append(patch(index, held.take([row]), others, how, control=False, seed=row, show=False))
        each = (time.monotonic() - started) / len(wrong)
        targets = [one.targets[0] for one in told]
        gained = np.mean([t.probability_after - t.probability_before for t in targets])
        broken, fixed = (np.mean([getattr(one.others, name) for one in told]) for name in ("broken", "fixed"))
        points = 100 * np.mean([one.others.accuracy.value for one in told])
        count = sum(target.fixed for target in targets)
        changed = f"{broken:.1f} | {fixed:.1f} | {points:+.2f}"
        name = by if replay else f"{by}, no random rows"
        print(f"| {name} | {count} of {len(wrong)} | {gained:+.3f} | {changed} | {each:.1f} |", flush=True)


def rows(place: str, most: int) -> list[dict[str, Any]]:
    with gzip.open(data_folder() / place, "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    order = np.random.default_rng(0).permutation(len(found))[:most].tolist()
    return [{"text": found[at]["text"], "label": f"label {found[at]['label']}"} for at in order]


if __name__ == "__main__":
    main()
