"""The TracIn-WE paper's notebook workload: TextCNN, 50,000 rows of at most 128 tokens, 2 checkpoints, 20 queries.

AG News rows are repeated up to 50,000; the models are random (weights do not change the cost). Headwater builds its
index, then scores all pairs in full and with Topk (10 words a text and checkpoint, special tokens dropped). Beside
it, in turns, run two Python loops over pairs of texts, on a sample of the rows, whose scores must agree:

- the plain loop, as the notebook's: every word of the one against every word of the other, a dot product where they
  are equal. Goal: at least 100 times faster a pair;
- a kinder one that intersects dictionaries of words first; it is stated, not judged.

The loops' word gradients are in memory, come from a pass of its own (bare.py), are cut to the largest words before
the clock starts, and their making is not counted; Headwater's seconds hold everything that a question costs:
encoding, the queries' passes, reading the index.

The notebook itself, on a T4 GPU: 131 s to compute the gradients, 6.6 GB for all words, 0.51 GB for Topk, and 60 s to
score its 20 queries with Topk.

    python benchmarks/notebook.py [--rows 50000] [--sample 500] [--repeats 3] [--threads 2] [--dtype float16]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from report import WORK, Goal, heading, save, spread, table, use_threads

if TYPE_CHECKING:
    from headwater import Index, Run

WEIGHTS = (1e-2, 5e-3)
QUERIES, WORDS = 20, 10
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    f"Topk ({WORDS} words)": {"max_words": WORDS, "special_tokens": False},
}
Gradients = dict[int, np.ndarray]
"""Word (token id) -> its gradient in one text at one checkpoint."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--sample", type=int, default=500, help="rows that the loop over pairs scores")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    options = parser.parse_args()
    use_threads(options.threads)
    title = heading("The paper's notebook workload")
    from workloads import AG_NEWS, ag_news, ag_news_test, textcnn_run

    told("making the run")
    run = textcnn_run("notebook", ag_news(options.rows), AG_NEWS, weights=WEIGHTS)
    told("building the index of all words, then of Topk")
    indexes = {
        way: built(run, f"notebook-{number}", dtype=options.dtype, max_words=given.get("max_words"))
        for number, (way, given) in enumerate(WAYS.items())
    }
    told("word gradients for the loop")
    queries = ag_news_test(QUERIES)
    sample = np.sort(np.random.default_rng(0).choice(options.rows, min(options.sample, options.rows), replace=False))
    rows = word_gradients(
        run, [run.corpus[int(row)].text for row in sample], [run.corpus[int(row)].label for row in sample]
    )
    asked = word_gradients(run, [query["text"] for query in queries], [query["label"] for query in queries])
    special = set(run.tokenizer.all_special_ids) - {run.tokenizer.unk_token_id}
    lines, goals = [], []
    for way, given in WAYS.items():
        told(f"scoring: {way}")
        sides = (asked, rows) if not given else (cut(asked, special), cut(rows, special))
        found = measure(indexes[way][0], queries, given, sides, options.repeats)
        scores, true = found["scores"][:, sample], found["true"]
        ours = [one / (QUERIES * options.rows) * 1e9 for one in found["ours"]]
        loop, kinder = ([one / (QUERIES * len(sample)) * 1e9 for one in found[name]] for name in ("loop", "kinder"))
        error = float(np.abs(scores - true).max() / np.abs(true).max())
        lines.append(
            [way, spread(found["ours"], 3), spread(ours, 1), spread(loop, 0), spread(kinder, 0), f"{error:.0e}"]
        )
        goals.append(Goal(f"loop / headwater a pair, {way}", float(np.median(loop) / np.median(ours)), 100))
        bound = {"float16": 1e-3, "float32": 1e-5}[options.dtype]
        goals.append(Goal(f"largest difference from the loop's scores, {way}", error, bound, at_least=False))
    print(title)
    print(f"{options.rows:,} rows, {len(WEIGHTS)} checkpoints, {QUERIES} queries; the loop scores {len(sample)} rows\n")
    print(table(["scores", "headwater s", "ns a pair", "loop ns a pair", "kinder loop", "difference"], lines), "\n")
    stored = [
        [f"{way}, {options.dtype}", f"{seconds:.0f}", f"{index.bytes / 1e9:.2f}", "131", theirs]
        for (way, (index, seconds)), theirs in zip(indexes.items(), ["6.6", "0.51"], strict=True)
    ]
    print(table(["index", "build s", "GB", "notebook s (T4)", "notebook GB"], stored), "\n")
    print(*goals, sep="\n")
    print(save("notebook", {"scores": lines, "stored": stored}))
    for index, _ in indexes.values():
        shutil.rmtree(index.folder)
    if not all(goal.met for goal in goals if not goal.at_least):
        raise SystemExit("the scores do not agree")


def told(what: str) -> None:
    print(what, "...", file=sys.stderr, flush=True)


def built(run: Run, name: str, **given: Any) -> tuple[Index, float]:
    """Build from nothing; returns the index and the seconds."""
    from headwater import Index

    folder = WORK / "indexes" / name
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    index = Index.build(run, folder, **given)
    return index, time.perf_counter() - started


def word_gradients(run: Run, texts: Sequence[str], labels: Sequence[str]) -> list[list[Gradients]]:
    """Word gradients of each text by the bare pass, [checkpoint][text]; padding is no word."""
    import torch

    from bare import bare_pass

    found = []
    for checkpoint in run.checkpoints:
        model = checkpoint.load().requires_grad_(False)
        of_checkpoint: list[Gradients] = []
        for start in range(0, len(texts), 50):
            batch = dict(run.tokenizer(list(texts[start : start + 50]), **ENCODE))
            targets = torch.tensor([run.label2id[label] for label in labels[start : start + 50]])
            gradients = bare_pass(model, model.get_input_embeddings(), batch, targets).numpy()
            for ids, kept, rows in zip(
                batch["input_ids"].numpy(), batch["attention_mask"].numpy(), gradients, strict=True
            ):
                words: Gradients = {}
                for token, real, vector in zip(ids.tolist(), kept, rows, strict=True):
                    if real:
                        words[token] = words[token] + vector if token in words else vector
                of_checkpoint.append(words)
        found.append(of_checkpoint)
    return found


ENCODE = {"padding": "max_length", "truncation": True, "max_length": 128, "return_tensors": "pt"}


def cut(texts: list[list[Gradients]], special: set[int]) -> list[list[Gradients]]:
    """Keep the words of the largest gradients of each text and checkpoint, special tokens aside."""

    def largest(words: Gradients) -> Gradients:
        norms = {word: float(np.linalg.norm(vector)) for word, vector in words.items() if word not in special}
        kept = sorted(norms, key=lambda word: (-norms[word], word))[:WORDS]
        return {word: words[word] for word in kept}

    return [[largest(words) for words in of_checkpoint] for of_checkpoint in texts]


def measure(
    index: Index,
    queries: list[dict[str, Any]],
    given: dict[str, Any],
    sides: tuple[list[list[Gradients]], list[list[Gradients]]],
    repeats: int,
) -> dict[str, Any]:
    """The index and the loop in turns; the first, which loads models and opens files, is not counted."""
    texts, labels = [query["text"] for query in queries], [query["label"] for query in queries]
    found: dict[str, Any] = {"ours": [], "loop": [], "kinder": [], "scores": index.scores(texts, labels, **given)}
    for _ in range(repeats):
        found["ours"].append(clocked(lambda: index.scores(texts, labels, **given)))
        found["loop"].append(clocked(lambda: found.update(true=loop_over_words(*sides))))
        found["kinder"].append(clocked(lambda: loop_over_shared_words(*sides)))
    return found


def loop_over_words(asked: list[list[Gradients]], rows: list[list[Gradients]]) -> np.ndarray:
    """Scores [queries, rows]: each word of a query against each word of a row."""
    scores = np.zeros((len(asked[0]), len(rows[0])), dtype=np.float32)
    for query in range(scores.shape[0]):
        for row in range(scores.shape[1]):
            total = 0.0
            for weight, queries_here, rows_here in zip(WEIGHTS, asked, rows, strict=True):
                for mine, one in queries_here[query].items():
                    for theirs, other in rows_here[row].items():
                        if mine == theirs:
                            total += weight * float(np.dot(one, other))
            scores[query, row] = total
    return scores


def loop_over_shared_words(asked: list[list[Gradients]], rows: list[list[Gradients]]) -> np.ndarray:
    """Scores [queries, rows]: only words that both hold, found by intersecting dictionaries."""
    scores = np.zeros((len(asked[0]), len(rows[0])), dtype=np.float32)
    for query in range(scores.shape[0]):
        for row in range(scores.shape[1]):
            total = 0.0
            for weight, queries_here, rows_here in zip(WEIGHTS, asked, rows, strict=True):
                mine, theirs = queries_here[query], rows_here[row]
                for word in mine.keys() & theirs.keys():
                    total += weight * float(np.dot(mine[word], theirs[word]))
            scores[query, row] = total
    return scores


def clocked(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
