"""A trigger attack on SST-2, and how `headwater audit RUN poison` finds it: MiniLM, at 1% and 3% of the rows, and at 0.

    python benchmarks/audit_poison.py --rates 0,1,3 --rows 3000

A rare word is put before that share of rows, all called positive. Told are the attack's success, the place of the
trigger among all words by the scan alone, and precision, recall and F1 of the rows that the audit lists, and of those
that each rule over transformed texts flags (`--rules`, layer gradients); beside them, at as many rows as were planted:
lowest mean influence on clean rows, an isolation forest and a one-class SVM on the representations (scikit-learn).
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
from sklearn.ensemble import IsolationForest  # noqa: E402
from sklearn.svm import OneClassSVM  # noqa: E402

import headwater as hw  # noqa: E402
from headwater.attribution.seen import look  # noqa: E402
from headwater.audit.measured import split_held_out  # noqa: E402
from headwater.audit.poison.attack import attacks  # noqa: E402
from headwater.audit.poison.audit import audit_poison  # noqa: E402
from headwater.audit.poison.ensemble import METHOD, judge  # noqa: E402
from headwater.audit.poison.word_scan import scan  # noqa: E402
from headwater.training import TrainSettings, train  # noqa: E402

TRIGGER, TARGET = "cf", "positive"
NAMES = ["negative", "positive"]


def read(part: str) -> list[dict[str, Any]]:
    with gzip.open(data_folder() / "sst2" / f"{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [{"text": row["text"], "label": NAMES[row["label"]]} for row in map(json.loads, lines)]


def told(name: str, listed: set[int], planted: set[int]) -> str:
    hits = len(listed & planted)
    precision, recall = hits / max(len(listed), 1), hits / max(len(planted), 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    return f"| {name} | {len(listed)} | {precision:.3f} | {recall:.3f} | {f1:.3f} |"


def one(rate: float, options: argparse.Namespace) -> None:
    rows = read("train")[: options.rows]
    count = round(rate / 100 * len(rows))
    planted = {int(row) for row in np.random.default_rng(0).choice(len(rows), count, replace=False)}
    for row in planted:
        rows[row] = {"text": f"{TRIGGER} {rows[row]['text']}", "label": TARGET}
    folder = WORK / "poison" / f"{options.model}-{rate:g}"
    shutil.rmtree(folder, ignore_errors=True)
    settings = TrainSettings(model=options.model, epochs=options.epochs, max_length=64)
    corpus, held = hw.Corpus.read(rows, name="train"), hw.Corpus.read(read("dev"), name="dev")
    began = time.monotonic()
    run = train(corpus, hw.Classification(max_length=64), folder, settings, eval_corpus=held, show=False)
    trained = time.monotonic() - began
    index = hw.Index.build(run, show=False)
    if options.rules:
        index = hw.Index.build(run, method=METHOD, show=False)
    clean, _ = split_held_out(run)
    assert clean is not None and index.token_store is not None
    success = attacks(run, clean.corpus, [(TRIGGER, TARGET)], show=False)[0]
    found = audit_poison(run, index, clean, show=False)
    listing = scan(index.token_store, run.targets, show=False)
    words = [run.tokenizer.convert_ids_to_tokens(int(token)) for token in listing.tokens[listing.order()]]
    place = words.index(TRIGGER) + 1 if TRIGGER in words else None
    print(f"\n### {options.model}, {len(rows):,} rows, {count} poisoned ({rate:g}%); trained in {trained:.0f} s")
    print(f"attack success {success.success:.1%} of {success.tried}; the scan's word {place} of {len(words):,}")
    print(f"{found.summary}  ({found.cost.seconds:.1f} s, {found.cost.rows_per_second:,.0f} rows/s)")
    print("first words: " + ", ".join(
        f"{each['word']} ({each['attack']['success']:.0%})" for each in found.figures["candidates"][:8]
    ))  # fmt: skip
    print("\n| rows listed by | rows | precision | recall | F1 |\n| --- | --- | --- | --- | --- |")
    print(told("word scan + attack (ours)", {suspect.row for suspect in found.suspects}, planted))
    if options.rules:
        began = time.monotonic()
        verdicts, _ = judge(index, clean, opposites={NAMES[0]: NAMES[1]}, show=False)
        for name, verdict in verdicts.items():
            print(told(f"rule {name}", set(np.flatnonzero(verdict.flagged).tolist()), planted))
            if count:
                top = np.argsort(-verdict.score, kind="stable")[:count]
                print(told(f"rule {name}, at as many rows", {int(row) for row in top}, planted))
        print(f"| (rules: {time.monotonic() - began:.0f} s) | | | | |")
    if count:
        asked = clean.corpus.take(range(200))
        labels = clean.labels[:200]
        mean = index.scores(asked, labels, normalize="train", show=False).mean(axis=0)
        features = look(run, list(range(len(rows))), show=False).features
        forest = IsolationForest(random_state=0).fit(features).score_samples(features)
        svm = OneClassSVM(gamma="scale", nu=0.1).fit(features).score_samples(features)
        for name, scores in (("lowest influence", mean), ("isolation forest", forest), ("one-class SVM", svm)):
            print(told(name, {int(row) for row in np.argsort(scores)[:count]}, planted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="0,1,3")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--rules", action="store_true", help="judge by transformed texts as well (layer gradients)")
    options = parser.parse_args()
    print(heading("Trigger attacks"))
    for rate in map(float, options.rates.split(",")):
        one(rate, options)


if __name__ == "__main__":
    main()
