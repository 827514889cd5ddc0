"""Which estimate foretells what a source of data does? Pearson over sources against retraining without each.

    python benchmarks/audit_sources.py
    python benchmarks/audit_sources.py --rates 5e-5,5e-4,2e-3     UnTrac's rates; the first is the paper's

A TextCNN on eight sources of 500 rows: SST-2 sentences as they are (four), with 20% and with 50% of the labels
flipped, with all flipped, and AG News sentences with labels at random. Asked are 400 sentences of SST-2's test set.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from typing import Any

from report import WORK, data_folder, heading, use_threads

use_threads(2)

import numpy as np  # noqa: E402

import headwater as hw  # noqa: E402
from headwater.audit.sources import METHODS, TRUTH, audit_sources  # noqa: E402
from headwater.audit.untrac import Unlearning  # noqa: E402
from headwater.training import TrainSettings, train  # noqa: E402

EACH = 500
FLIPS = {"sst clean 1": 0.0, "sst clean 2": 0.0, "sst clean 3": 0.0, "sst clean 4": 0.0, "sst 20% wrong": 0.2,
         "sst half wrong": 0.5, "sst all wrong": 1.0}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="5e-5,5e-4,2e-3")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=5)
    options = parser.parse_args()
    print(heading("Sources: sums, UnTrac and UnTrac-Inv against retraining without each source"))
    folder = WORK / "sources"
    shutil.rmtree(folder, ignore_errors=True)
    corpus, asked = read()
    settings = TrainSettings(model="textcnn", epochs=options.epochs, max_length=48)
    run = train(corpus, hw.Classification(max_length=48), folder / "run", settings, show=False)
    index = hw.Index.build(run, show=False)
    told: list[tuple[str, dict[str, Any], float]] = []
    for number, rate in enumerate(options.rates.split(",")):
        methods = METHODS if number == 0 else METHODS[1:]
        found = audit_sources(run, index, asked, "source", methods=methods, how=Unlearning(learning_rate=float(rate)),
                              truth=folder / "without", seeds=options.seeds, show=False)  # fmt: skip
        told.append((rate, dict(found.figures), found.cost.seconds))
    first = told[0][1]["sources"]
    print("\n| source | rows | truth (nats) | by seed | sums |\n| --- | --- | --- | --- | --- |")
    for each in sorted(first, key=lambda each: each[TRUTH]):
        seeds = ", ".join(f"{value:+.4f}" for value in each["truth_by_seed"])
        print(f"| {each['source']} | {each['rows']} | {each[TRUTH]:+.4f} | {seeds} | {each['sums']:+.3g} |")
    print("\n| method | rate | Pearson over 8 sources | 95% interval |\n| --- | --- | --- | --- |")
    for rate, figures, _ in told:
        for grade in figures["grades"]:
            of = "-" if grade["method"] == "sums" else rate
            print(f"| {grade['method']} | {of} | {grade['pearson']:.3f} | {grade['low']:.2f} to {grade['high']:.2f} |")
    print("\nSeconds of each call, the first with retraining: " + ", ".join(f"{seconds:.0f}" for *_, seconds in told))


def read() -> tuple[hw.Corpus, hw.Corpus]:
    generator = np.random.default_rng(0)
    sentences = rows("sst2/train.jsonl.gz")
    order = generator.permutation(len(sentences)).tolist()
    taught = []
    for number, (name, share) in enumerate(FLIPS.items()):
        for place, at in enumerate(order[number * EACH : (number + 1) * EACH]):
            label = sentences[at]["label"] if place >= share * EACH else 1 - sentences[at]["label"]
            taught.append({"text": sentences[at]["text"], "label": f"label {label}", "source": name})
    news = rows("ag_news/train.jsonl.gz")
    for at in generator.choice(len(news), EACH, replace=False).tolist():
        label = int(generator.integers(2))
        taught.append({"text": news[at]["text"], "label": f"label {label}", "source": "news at random"})
    generator.shuffle(taught)
    test = [{"text": row["text"], "label": f"label {row['label']}"} for row in rows("sst2/test.jsonl.gz")]
    chosen = [test[at] for at in generator.choice(len(test), 400, replace=False).tolist()]
    return hw.Corpus.read(taught, name="train"), hw.Corpus.read(chosen, name="asked")


def rows(place: str) -> list[dict[str, Any]]:
    with gzip.open(data_folder() / place, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
