"""Filling a bank of retrainings against the plain loop that anyone would write.

Interleaved, A B C A B C: `retrain` and `predict` in a loop, in one process with all threads; the bank with exact
arithmetic, in as many processes of one thread (it must give the loop's numbers to the last bit where the loop has one
thread); the bank with quick arithmetic. TextCNN, halves of AG News rows, 8 epochs; the vocabulary is the corpus' own,
or one of 25,000 learned elsewhere. Throughput is that of a bank in full swing: the seconds that processes need to
start are shown beside it, once for a whole bank. Goal: 3 times the plain loop.

    python benchmarks/bank.py [--rows 1000] [--processes 2] [--repeats 3] [--vocabularies own large]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from typing import TYPE_CHECKING, Any

from report import WORK, Goal, heading, save, spread, table, use_threads

if TYPE_CHECKING:
    from headwater import Corpus, Run
    from headwater.evaluation.bank import RetrainBank

GOAL = 3.0
LOOP, BANK = 2, 8  # retrainings timed a repeat
QUERIES = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--vocabularies", nargs="+", choices=["own", "large"], default=["own", "large"])
    options = parser.parse_args()
    use_threads(options.processes)
    title = heading("A bank of retrainings against the plain loop")
    measured = {name: measure(name, options) for name in options.vocabularies}
    print(title, "\n")
    columns = ["vocabulary", "tokens", "way", "retrainings a minute", "times the loop", "s to start", "largest change"]
    print(table(columns, [line for name, found in measured.items() for line in lines(name, found)]), "\n")
    for name, found in measured.items():
        for way in ("exact", "quick"):
            ratio = statistics.median(found[way]) / statistics.median(found["loop"])
            print(Goal(f"{way} / plain loop, {name} vocabulary", ratio, GOAL))
    print(save("bank", measured))


def measure(vocabulary: str, options: argparse.Namespace) -> dict[str, Any]:
    from headwater import Corpus
    from workloads import ag_news_test

    run = trained(vocabulary, options.rows)
    queries = Corpus.read(ag_news_test(QUERIES), name="queries")
    ways = ("exact", "quick")
    banks = {way: fresh_bank(run, queries, way, options) for way in ways}
    found: dict[str, Any] = {"tokens": len(run.tokenizer), "loop": [], "exact": [], "quick": [], "exact_start": []}
    found |= {"quick_start": [], "seeds": seed_change(run, queries, banks["exact"])}
    for repeat in range(options.repeats):
        found["loop"].append(LOOP / loop(run, queries, banks["exact"], repeat))
        for way in ways:
            rate, start = filled(banks[way], options.processes)
            found[way].append(rate)
            found[f"{way}_start"].append(start)
    found |= {f"{way}_change": change(run, queries, banks[way]) for way in ways}
    return found


def trained(vocabulary: str, rows: int) -> Run:
    """A TextCNN as the paper's, trained on `rows` texts, from random weights."""
    import torch

    from headwater import Classification, Corpus, Run
    from headwater.models.textcnn import TextCNN, TextCNNConfig
    from headwater.training import TrainSettings, train
    from headwater.training.vocabulary import learn_wordpiece
    from workloads import AG_NEWS, ag_news

    folder = WORK / "runs" / f"bank-{vocabulary}-{rows}"
    if folder.exists():
        return Run.open(folder)
    model = "textcnn"
    if vocabulary == "large":
        base = WORK / "runs" / "bank-base"
        tokenizer = learn_wordpiece([row["text"] for row in ag_news(60_000)], size=25_000)
        torch.manual_seed(0)
        numbers = {label: number for number, label in enumerate(AG_NEWS)}
        names = dict(enumerate(AG_NEWS))
        TextCNN(TextCNNConfig(vocab_size=len(tokenizer), label2id=numbers, id2label=names)).save_pretrained(base)
        tokenizer.save_pretrained(base)
        model = str(base)
    settings = TrainSettings(model=model, epochs=8, learning_rate=1e-3, checkpoints=1, device="cpu")
    return train(Corpus.read(ag_news(rows), name="ag_news"), Classification(max_length=128), folder, settings)


def fresh_bank(run: Run, queries: Corpus, way: str, options: argparse.Namespace) -> RetrainBank:
    from headwater.evaluation.bank import RetrainBank

    folder = WORK / "banks" / f"{run.folder.name}-{way}"
    shutil.rmtree(folder, ignore_errors=True)
    count = BANK * options.repeats
    return RetrainBank.create(run, folder, queries, subsets=count, seeds=1, arithmetic=way)  # type: ignore[arg-type]


def loop(run: Run, queries: Corpus, bank: RetrainBank, repeat: int) -> float:
    """Seconds of the plain loop over a few of the bank's subsets."""
    import numpy as np

    from headwater.training import predict, retrain

    started = time.perf_counter()
    for mask in bank.manifest.masks[repeat * LOOP : (repeat + 1) * LOOP]:
        model = retrain(run, rows=np.flatnonzero(mask).tolist(), seed=0)
        predict(model, run.tokenizer, run.task, queries)
    return time.perf_counter() - started


def filled(bank: RetrainBank, processes: int) -> tuple[float, float]:
    """Retrainings a second in full swing, and the seconds before the processes' first."""
    before = set((bank.folder / "retrains").glob("*"))
    started = time.time()
    bank.fill(processes=processes, most=BANK)
    ends = sorted(path.stat().st_mtime for path in set((bank.folder / "retrains").glob("*")) - before)
    rate = (len(ends) - processes) / (ends[-1] - ends[processes - 1])
    return rate, max(0.0, ends[processes - 1] - started - processes / rate)


def change(run: Run, queries: Corpus, bank: RetrainBank) -> float:
    """Largest difference of a query's loss between the bank and `retrain` with one thread."""
    import numpy as np
    import torch

    from headwater.training import predict, retrain

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = retrain(run, rows=np.flatnonzero(bank.masks[0]).tolist(), seed=0)
        by_hand = predict(model, run.tokenizer, run.task, queries).losses
    finally:
        torch.set_num_threads(threads)
    return float(np.abs(bank.losses[0, 0] - by_hand).max())


def seed_change(run: Run, queries: Corpus, bank: RetrainBank) -> float:
    """The same between two seeds: what a change must be small against."""
    import numpy as np

    from headwater.training import predict, retrain

    rows = np.flatnonzero(bank.manifest.masks[0]).tolist()
    one, other = (
        predict(retrain(run, rows=rows, seed=seed), run.tokenizer, run.task, queries).losses for seed in (0, 1)
    )
    return float(np.abs(one - other).max())


def lines(name: str, found: dict[str, Any]) -> list[list[str]]:
    made = []
    for way, told in (("loop", "plain loop"), ("exact", "bank, exact"), ("quick", "bank, quick")):
        minutes = [60 * rate for rate in found[way]]
        ratio = statistics.median(found[way]) / statistics.median(found["loop"])
        start = "" if way == "loop" else spread(found[f"{way}_start"], 1)
        moved = f"{found['seeds']:.2g} (other seed)" if way == "loop" else f"{found[f'{way}_change']:.2g}"
        made.append([name, f"{found['tokens']:,}", told, spread(minutes, 1), f"{ratio:.2f}", start, moved])
    return made


if __name__ == "__main__":
    main()
