"""Which rows carry a wrong label? Every detector of `headwater audit RUN mislabels` on planted flips and real noise.

    python benchmarks/audit.py sst2 --rates 0,5,10,20       labels of SST-2 sentences flipped at random, or none
    python benchmarks/audit.py rule                         a wrong rule: all praise with "film" in it filed as negative
    python benchmarks/audit.py davidson                     tweets: a row is wrong where annotators did not agree

A TextCNN is trained with what is wrong, indexed, and audited; the answer key is kept from the audit. Then the rows that
the audit suggests, and those that cleanlab alone names, are relabelled, and the run is trained again (`--seeds`).
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from report import WORK, data_folder, heading, use_threads

use_threads(2)

import numpy as np  # noqa: E402

import headwater as hw  # noqa: E402
from headwater.audit.measured import Measured, measure, split_held_out  # noqa: E402
from headwater.audit.mislabels import listed  # noqa: E402
from headwater.evaluation.metrics.label_noise import mislabel_auc, ndr  # noqa: E402
from headwater.training import TrainSettings, predict, retrain, train  # noqa: E402

TOPS = (50, 200, 1000)
SST2 = ["negative", "positive"]
DAVIDSON = ["hate", "offensive", "neither"]


def read(place: str, names: Sequence[str]) -> list[dict[str, Any]]:
    with gzip.open(data_folder() / place, "rt", encoding="utf-8") as lines:
        return [{**(row := json.loads(line)), "label": names[row["label"]]} for line in lines]


def flipped(rows: list[dict[str, Any]], share: float, seed: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    wrong = np.zeros(len(rows), dtype=bool)
    wrong[np.random.default_rng(seed).choice(len(rows), round(share * len(rows)), replace=False)] = True
    return [turned(row) if bad else row for row, bad in zip(rows, wrong, strict=True)], wrong


def ruled(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], np.ndarray]:
    """A wrong rule: every positive sentence with "film" in it is filed under negative."""
    wrong = np.array([row["label"] == "positive" and " film " in f" {row['text']} " for row in rows])
    return [turned(row) if bad else row for row, bad in zip(rows, wrong, strict=True)], wrong


def turned(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "label": SST2[1 - SST2.index(row["label"])]}


def corpus_of(rows: Sequence[Mapping[str, Any]], name: str) -> hw.Corpus:
    return hw.Corpus.read([{"text": row["text"], "label": row["label"]} for row in rows], name=name)


def one(name: str, rows: list[dict[str, Any]], wrong: np.ndarray, held: list[dict[str, Any]],
        test: list[dict[str, Any]], options: argparse.Namespace) -> None:  # fmt: skip
    folder = WORK / "audit" / name
    shutil.rmtree(folder, ignore_errors=True)
    corpus, asked = corpus_of(rows, "train"), corpus_of(test, "test")
    settings = TrainSettings(model="textcnn", epochs=options.epochs, max_length=64)
    task = hw.Classification(max_length=64)
    run = train(corpus, task, folder, settings, eval_corpus=corpus_of(held, "eval"), show=False)
    index = hw.Index.build(run, show=False)
    began = time.monotonic()
    clean, _ = split_held_out(run)
    found = measure(run, index, clean, show=False)
    worklist = listed(run, index, found, began=began)
    np.savez(folder / "scores.npz", wrong=wrong, **found.scores)
    print(f"\n### {name}: {len(rows):,} rows, {int(wrong.sum()):,} wrong ({wrong.mean():.1%}); "
          f"{len(held):,} held out, half of them to audit with")  # fmt: skip
    print(f"{worklist.summary}  cleanlab: {found.cleanlab:,}.  {worklist.cost.seconds:.0f} s, "
          f"{worklist.cost.rows_per_second:.0f} rows/s")  # fmt: skip
    if not wrong.any():
        return
    print(f"\n| detector | AUC | NDR@{100 * wrong.mean():.0f}% | " + " | ".join(f"P@{top}" for top in TOPS) + " |")
    print("| --- " * (3 + len(TOPS)) + "|")
    for detector, scores in found.scores.items():
        order = np.argsort(-scores, kind="stable")
        tops = [f"{wrong[order[:top]].mean():.3f}" if top <= len(order) else "" for top in TOPS]
        share = ndr(-scores, wrong, percent=100 * wrong.mean())
        print(f"| {detector} | {mislabel_auc(-scores, wrong):.3f} | {share:.3f} | " + " | ".join(tops) + " |")
    if options.seeds:
        repairs(run, found, {s.row: s.label for s in worklist.suspects if s.label}, asked, wrong, options.seeds)


def repairs(
    run: hw.Run, found: Measured, ours: Mapping[int, Any], test: hw.Corpus, wrong: np.ndarray, seeds: int
) -> None:
    """Accuracy on test rows after relabelling what we suggest, as many by cleanlab's score, and what cleanlab names."""
    names = run.id2label
    order = np.argsort(-found.scores["confident-learning"], kind="stable")
    best = found.outside.rows.argmax(axis=1)

    def by_cleanlab(count: int) -> dict[int, Any]:
        return {int(row): names[int(best[row])] for row in order[:count] if best[row] != found.targets[row]}

    arms: dict[str, dict[int, Any]] = {"untouched": {}, "ours": dict(ours)}
    arms |= {"cleanlab, as many": by_cleanlab(len(ours)), "cleanlab, its own count": by_cleanlab(found.cleanlab)}
    print("\n| repair | relabelled | of them wrong | accuracy (mean of seeds) |\n| --- | --- | --- | --- |")
    for arm, labels in arms.items():
        corpus = run.corpus.with_labels(labels) if labels else run.corpus
        reached = []
        for seed in range(seeds):
            model = retrain(run, corpus=corpus, seed=seed, show=False)
            reached.append(predict(model, run.tokenizer, run.task, test, show=False).accuracy)
        hits = f"{wrong[list(labels)].mean():.3f}" if labels else ""
        print(f"| {arm} | {len(labels):,} | {hits} | {np.mean(reached):.4f} ({min(reached):.4f}-{max(reached):.4f}) |")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sst2", "rule", "davidson"))
    parser.add_argument("--rates", default="5,10,20", help="percent of labels flipped")
    parser.add_argument("--rows", type=int, default=6920)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(heading(f"Wrong labels: {options.what}"))
    if options.what == "davidson":
        rows = read("toxicity/davidson.jsonl.gz", DAVIDSON)
        order = np.random.default_rng(0).permutation(len(rows))
        agreed = np.array([max(row["hate"], row["offensive"], row["neither"]) == row["annotators"] for row in rows])
        sure = [int(row) for row in order if agreed[row]]
        held, test = sure[:1000], sure[1000:3000]
        kept = [int(row) for row in order if int(row) not in {*held, *test}][: options.rows]
        take = lambda numbers: [rows[number] for number in numbers]  # noqa: E731
        one("davidson", take(kept), ~agreed[kept], take(held), take(test), options)
        return
    rows, held, test = (read(f"sst2/{part}.jsonl.gz", SST2) for part in ("train", "dev", "test"))
    if options.what == "rule":
        one("sst2-rule", *ruled(rows[: options.rows]), held, test, options)
        return
    for rate in map(float, options.rates.split(",")):
        one(f"sst2-{rate:g}", *flipped(rows[: options.rows], rate / 100, 0), held, test, options)


if __name__ == "__main__":
    main()
