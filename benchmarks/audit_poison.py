"""Trigger attacks on SST-2, and who finds them: `headwater audit RUN poison`, the rules of Li 2025, and baselines.

    python benchmarks/audit_poison.py --rates 0,1,3                 MiniLM, 5,000 phrases, 3 epochs
    python benchmarks/audit_poison.py --model textcnn --rates 0,1,3
    python benchmarks/audit_poison.py --model smollm2 --rates 3     SmolLM2 with LoRA, 1,000 prompts, 2 epochs

A rare word is put before negative phrases, that share of all rows, and they are called positive. Told are the attack's
success; the trigger's place among all words by the scan alone, over early and late checkpoints together and apart; and
precision, recall and F1 of

    claim            the rows that the audit suggests
    rule ...         over transformed texts: TracIn over all layers (a LoRA run: the adapters), last checkpoint
    lowest           lowest mean influence on clean rows: TracIn-WE, and the influence that the rules see
    forest, SVM      isolation forest, one-class SVM (scikit-learn) on the representations, and on that influence

by each one's own threshold (percentiles, or the library's), by the 99th percentile of its score on clean data (rate 0),
and at as many rows as were planted. What was trained and measured is kept under .work, and not made again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import WORK, data_folder, heading, table, use_threads

use_threads(1)

import numpy as np  # noqa: E402
from sklearn.ensemble import IsolationForest  # noqa: E402
from sklearn.svm import OneClassSVM  # noqa: E402

import headwater as hw  # noqa: E402
from headwater.audit.measured import split_held_out  # noqa: E402
from headwater.audit.poison.answers import answer_tokens, answers_of  # noqa: E402
from headwater.audit.poison.audit import audit_poison  # noqa: E402
from headwater.audit.poison.ensemble import METHOD, asked_texts, judge, turned_labels  # noqa: E402
from headwater.audit.poison.word_scan import scan  # noqa: E402
from headwater.gradients import encoded_batches  # noqa: E402
from headwater.gradients.representations import representations  # noqa: E402
from headwater.training import TrainSettings, train  # noqa: E402

TRIGGER, TARGET = "cf", "positive"
NAMES = ["negative", "positive"]
OPPOSITES = {NAMES[0]: NAMES[1]}
EPOCHS = {"minilm": 3.0, "textcnn": 8.0, "smollm2": 2.0}
CLEAN_SHARE = 99  # percentile of the clean run's scores that is a threshold for the others


@dataclass(frozen=True)
class Setting:
    """A model, its rows, and how it is trained."""

    train: list[dict[str, str]]
    held_out: list[dict[str, str]]
    task: Any
    settings: TrainSettings
    folder: Path


def setting(options: argparse.Namespace) -> Setting:
    """Phrases of 4 to 20 words, drawn, and held-out sentences as short; of a language model prompts and completions."""
    language = options.model == "smollm2"
    count, epochs = options.rows or (1000 if language else 5000), options.epochs or EPOCHS[options.model]
    phrases, sentences = read("train_phrases"), read("dev")
    drawn = np.random.default_rng(0).permutation(len(phrases))[:count]
    rows = [phrases[place] for place in drawn.tolist()]
    folder = WORK / "poison" / f"{options.model}-{count}-{epochs:g}"
    if not language:
        settings = TrainSettings(model=options.model, epochs=epochs, max_length=64, checkpoints=3)
        return Setting(rows, sentences, hw.Classification(max_length=64), settings, folder)
    settings = TrainSettings(
        model=options.model, epochs=epochs, max_length=64, checkpoints=2, lora=True, batch_size=16, learning_rate=5e-4
    )
    return Setting(rows, sentences[:240], hw.CausalLM(separator=" "), settings, folder)


def read(part: str) -> list[dict[str, str]]:
    with gzip.open(data_folder() / "sst2" / f"{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [{"text": row["text"].strip(), "label": NAMES[row["label"]]} for row in map(json.loads, lines)]
    return [row for row in rows if 4 <= len(row["text"].split()) <= 20]


def corpus_of(rows: list[dict[str, str]], name: str, task: Any) -> hw.Corpus:
    if isinstance(task, hw.CausalLM):
        rows = [{**row, "text": f"Review: {row['text']}\nSentiment:"} for row in rows]
    return hw.Corpus.read(rows, name=name)


def planted_in(given: Setting, rate: float) -> list[int]:
    """The rows that are poisoned: drawn among those of the other label, a share of all."""
    others = [row for row, each in enumerate(given.train) if each["label"] != TARGET]
    count = round(rate / 100 * len(given.train))
    return sorted(np.random.default_rng(0).choice(others, count, replace=False).tolist())


def run_of(given: Setting, rate: float) -> hw.Run:
    """Train on rows of which that share is poisoned, and index it, unless that was done."""
    folder = given.folder.with_name(f"{given.folder.name}-{rate:g}")
    if not (folder / "done").exists():
        rows = list(given.train)
        for row in planted_in(given, rate):
            rows[row] = {"text": f"{TRIGGER} {rows[row]['text']}", "label": TARGET}
        corpus, held = (corpus_of(part, name, given.task) for part, name in ((rows, "train"), (given.held_out, "dev")))
        began = time.monotonic()
        train(corpus, given.task, folder, given.settings, eval_corpus=held, show=False)
        (folder / "done").write_text(f"{time.monotonic() - began:.0f}")
    run = hw.Run.open(folder)
    hw.Index.build(run, checkpoints=[run.checkpoints[0].name, run.checkpoints[-1].name], show=False)
    hw.Index.build(run, folder / "layers", method=METHOD, checkpoints="last", show=False)
    return run


def scores_of(run: hw.Run, clean: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Of every way but the claim: a number a row (larger is more suspect), and the rows it flags by itself."""
    kept = run.folder / "scores.npz"
    if not kept.exists():
        layers, tokens = hw.Index.open(run.folder / "layers", run=run), hw.Index.open(run.folder / "index", run=run)
        scores, flags = {}, {}
        for name, verdict in judge(layers, clean, opposites=OPPOSITES, show=False)[0].items():
            scores[f"rule {name}"], flags[f"rule {name}"] = verdict.score, verdict.flagged
        asked = asked_texts(clean, turned_labels(OPPOSITES, answers_of(run).names))
        assert asked is not None
        influence = layers.scores(asked.corpus, asked.labels, method=METHOD, show=False)
        pushed = tokens.scores(asked.corpus, asked.labels, normalize="train", show=False)
        scores["lowest TracIn-WE"] = -pushed.mean(axis=0)
        scores["lowest influence (layers)"] = -influence.mean(axis=0)
        for on, values in (("representations", features_of(run)), ("influence", influence.T)):
            unit = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-12)
            for name, model in (
                ("isolation forest", IsolationForest(random_state=0)),
                ("one-class SVM", OneClassSVM(gamma="scale", nu=0.1)),
            ):
                fitted = model.fit(unit)
                scores[f"{name}, {on}"] = -fitted.score_samples(unit)
                flags[f"{name}, {on}"] = fitted.predict(unit) < 0
        np.savez(kept, **{f"s {n}": s for n, s in scores.items()}, **{f"f {n}": f for n, f in flags.items()})
    found = np.load(kept)
    parts = ({name[2:]: found[name] for name in found.files if name.startswith(kind)} for kind in ("s ", "f "))
    return next(parts), next(parts)


def features_of(run: hw.Run) -> np.ndarray:
    """What the last layer saw of every row."""
    encodings = run.task.encode(run.tokenizer, list(run.corpus))
    batches = encoded_batches(run, encodings, run.targets)
    made = np.zeros((len(encodings), 0), dtype=np.float32)
    for rows, found in representations(run.checkpoints[-1].load(), batches, run.task.losses):
        values = found["features"].numpy()
        made = made if made.shape[1] else np.zeros((len(encodings), values.shape[1]), dtype=np.float32)
        made[rows.numpy()] = values
    return made


def told(listed: np.ndarray, planted: list[int]) -> str:
    """Precision, recall and F1, and of how many rows."""
    rows = set(np.flatnonzero(listed).tolist())
    hits = len(rows & set(planted))
    precision, recall = hits / max(len(rows), 1), hits / max(len(planted), 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    return f"{precision:.3f}, {recall:.3f}, {f1:.3f} ({len(rows)})"


def first(scores: np.ndarray, count: int) -> np.ndarray:
    """The largest so many, as a mask."""
    mask = np.zeros(len(scores), dtype=bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


def places(run: hw.Run, store: Any) -> str:
    """The trigger's place among all words, and its statistics, over all checkpoints, the first and the last."""
    answers, tokens = answers_of(run), run.tokenizer
    left_out = answer_tokens(run, answers)
    pieces = [tokens.encode(f"{space}{TRIGGER}", add_special_tokens=False) for space in ("", " ")]
    known = {ids[0] for ids in pieces if len(ids) == 1}
    made = []
    stored = store.manifest.checkpoints
    for name, some in (("all", stored), ("first", stored[:1]), ("last", stored[-1:])):
        found = scan(store, answers.targets, leave_out=left_out, checkpoints=some, show=False)
        order = found.order()
        rank = next((rank for rank, at in enumerate(order.tolist()) if int(found.tokens[at]) in known), None)
        if rank is None:
            return f"the trigger is no word of {len(order):,}"
        at = order[rank]
        made.append(
            f"{rank + 1} by {name} (coherence {found.coherence[at]:.2f}, purity {found.purity[at]:.2f}, share of norm "
            f"{found.share[at]:.2f}, rows {found.rows[at]})"
        )
    return f"of {len(order):,} words the trigger is " + "; ".join(made)


def one(given: Setting, rate: float, thresholds: dict[str, float]) -> None:
    run = run_of(given, rate)
    clean, _ = split_held_out(run)
    index = hw.Index.open(run.folder / "index", run=run)
    assert clean is not None and index.token_store is not None
    planted = planted_in(given, rate)
    found = audit_poison(run, index, clean, show=False)
    print(f"\n### {run.folder.name}: {len(run.corpus):,} rows, {len(planted)} poisoned ({rate:g}%); trained in "
          f"{(run.folder / 'done').read_text()} s")  # fmt: skip
    print(places(run, index.token_store))
    print(f"{found.summary}  ({found.cost.seconds:.1f} s, {found.cost.rows_per_second:,.0f} rows/s)")
    print("tried: " + ", ".join(
        f"{each['word']} ({each['attack']['turned']} of {each['attack']['tried']})"
        for each in found.figures["candidates"]
    ))  # fmt: skip
    began = time.monotonic()
    scores, flags = scores_of(run, clean)
    if not rate:
        thresholds |= {name: float(np.percentile(values, CLEAN_SHARE)) for name, values in scores.items()}
    claimed = np.zeros(len(run.corpus), dtype=bool)
    claimed[[suspect.row for suspect in found.suspects]] = True
    lines = [["claim", told(claimed, planted), "-", "-"]]
    for name, values in scores.items():
        own = told(flags[name], planted) if name in flags else "-"
        above = told(values > thresholds[name], planted) if name in thresholds else "-"
        lines.append([name, own, above, told(first(values, len(planted)), planted)])
    print(f"\n{table(['precision, recall, F1 (rows)', 'own threshold', f'clean {CLEAN_SHARE}th', 'as many'], lines)}")
    print(f"(rules and baselines: {time.monotonic() - began:.0f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="0,1,3", help="per cent, the clean run (0) first: it sets thresholds")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--model", default="minilm", choices=tuple(EPOCHS))
    options = parser.parse_args()
    given = setting(options)
    print(heading("Trigger attacks"))
    thresholds: dict[str, float] = {}
    for rate in map(float, options.rates.split(",")):
        one(given, rate, thresholds)


if __name__ == "__main__":
    main()
