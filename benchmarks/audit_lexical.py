"""Does reweighting the data take a habit out of the model? SNLI hypotheses and SST-2 (Serrano et al. 2023's question).

    python benchmarks/audit_lexical.py snli
    python benchmarks/audit_lexical.py sst2

A TextCNN is trained on the hypotheses alone (SNLI: nothing but words that give the label away can help it), audited,
and trained again with the weights that the audit suggests. Told are biased (word, label) in the data, and how many of
the 50 most biased are habits of the model on held-out rows, before and after; and accuracy.
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
from headwater.audit.lexical import audit_lexical  # noqa: E402
from headwater.remedies.apply import planned  # noqa: E402
from headwater.training import TrainSettings, predict, retrain, train  # noqa: E402


def read(what: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training rows and held-out rows."""
    if what == "sst2":
        return rows("sst2/train.jsonl.gz", "text"), rows("sst2/test.jsonl.gz", "text")
    return rows("snli/train.jsonl.gz", "hypothesis"), rows("snli/test.jsonl.gz", "hypothesis")[:4000]


def rows(place: str, column: str) -> list[dict[str, Any]]:
    with gzip.open(data_folder() / place, "rt", encoding="utf-8") as lines:
        return [{"text": row[column], "label": f"label {row['label']}"} for row in map(json.loads, lines)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("snli", "sst2"))
    parser.add_argument("--floor", type=float, default=0.5)
    parser.add_argument("--epochs", type=float, default=5)
    options = parser.parse_args()
    print(heading(f"Lexical bias: {options.what}"))
    taught, held = read(options.what)
    folder = WORK / "lexical" / options.what
    shutil.rmtree(folder, ignore_errors=True)
    settings = TrainSettings(model="textcnn", epochs=options.epochs, max_length=48)
    corpus, asked = hw.Corpus.read(taught, name="train"), hw.Corpus.read(held, name="held out")
    task = hw.Classification(max_length=48)
    run = train(corpus, task, folder / "run", settings, eval_corpus=asked, show=False)
    found = audit_lexical(run, asked, floor=options.floor, show=False)
    print(f"\n{len(taught):,} rows, {found.cost.seconds:.1f} s. {found.summary}")
    print(f"{found.how_sure}\n{' '.join(found.notes)}\n")
    plan = found.plan(run)
    changed = planned(plan, corpus, [f"top:{len(found.suspects)}"], classes=True).apply(corpus)
    mended = retrain(run, corpus=changed, out=folder / "mended", show=False)
    after = audit_lexical(mended, asked, floor=options.floor, show=False)
    words = {(each["word"], each["label"]) for each in found.figures["model"]}
    print("| | biased in the data | habits among the 50 most biased | mean habit | accuracy |")
    print("| --- | --- | --- | --- | --- |")
    for name, each, data in (("as it was", run, found), ("reweighted", mended, after)):
        told = predict(each.checkpoints[-1].load(), each.tokenizer, task, asked, show=False)
        model = habits(found, each, asked)
        size = np.mean([abs(habit) for habit, _ in model])
        shown = sum(p < 0.05 for _, p in model)
        print(f"| {name} | {data.figures['biased']:,} | {shown} of {len(words)} | {size:.3f} | {told.accuracy:.4f} |")


def habits(found: Any, run: hw.Run, asked: hw.Corpus) -> list[tuple[float, float]]:
    """The habits of a model about the words that were biased before."""
    from headwater.audit.lexical import asked_of

    return [(each["habit"], each["p"]) for each in asked_of(run, found.figures["words"], asked)]


if __name__ == "__main__":
    main()
