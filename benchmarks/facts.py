"""Fact tracing: which rows state what the model is asked, and which rows teach it? (TrackStar, arXiv 2410.17413)

Facts of ParaRel (subject, relation, object) are stated in the training rows, each in `--statements` of its relation's
patterns, among sentences of WikiText that state none of them. SmolLM2 is trained on the rows as plain texts, and asked
in a pattern in which the fact was never stated: prompt "Alan Turing died in", completion " London.". Right rows are
those of the query's own fact; other rows of the same relation, object or pattern are wrong.

MRR, hit@10 and recall@10 look at where the right rows stand. Tail-patch takes one more training step on each of the
first rows and looks at the completion's log-probability (mean over its tokens, in nats); beside it stands the same
minus that of random rows, query by query. All intervals are 95%, over queries. TR-TFIDF needs classes: not here.

    python benchmarks/facts.py [--facts 160] [--queries 48] [--sentences 80] [--patched 12] [--depth 2]
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from report import WORK, data_folder, heading, save, table, use_threads

if TYPE_CHECKING:
    import numpy as np

    from headwater import Corpus, Run
    from headwater.evaluation.metrics.bootstrap import Interval
    from headwater.evaluation.scoring import Asked, Scored

CONTROL = "random"
METHODS = (
    "tracin-we",
    "tracin-we/normalize=train",
    "gradient-cosine",
    "trackstar",
    "bm25",
    "representation-cosine",
    CONTROL,
)
_END = re.compile(r"\[Y\][ .]*$")


@dataclass(frozen=True)
class Fact:
    """A fact, the patterns that state it in the training rows, and the one that asks for it."""

    relation: str
    subject: str
    object: str
    stated: tuple[str, ...]
    asked: str

    @property
    def key(self) -> str:
        return f"{self.relation}: {self.subject} - {self.object}"

    def statements(self) -> list[str]:
        return [pattern.replace("[X]", self.subject).replace("[Y]", self.object) for pattern in self.stated]

    def question(self) -> tuple[str, str]:
        """Prompt and completion."""
        return _END.sub("", self.asked).replace("[X]", self.subject).rstrip(), f" {self.object}."


def main() -> None:
    options = read_options()
    use_threads(options.threads)
    title = heading("Fact tracing: who states a fact, and who teaches it")
    import headwater as hw

    facts = drawn_facts(options.facts, options.statements, options.seed)
    rows = [{"text": text, "fact": fact.key} for fact in facts for text in fact.statements()]
    rows += [{"text": text, "fact": ""} for text in sentences(options.sentences, options.seed)]
    random.Random(options.seed).shuffle(rows)
    asked = [fact.question() for fact in facts[: options.queries]]
    told = [
        {"text": prompt, "completion": end, "fact": fact.key} for (prompt, end), fact in zip(asked, facts, strict=False)
    ]
    corpus = hw.Corpus.read(rows, hw.Columns(label=None), name="facts")
    queries = hw.Corpus.read(told, hw.Columns(label="completion"), name="asked")
    run, seconds = trained(corpus, options)
    before, after = learned(run, queries)
    scored, seconds_patched = scored_methods(run, queries, options)
    print(
        f"{title}\n{len(facts):,} facts in {len(rows) - options.sentences:,} rows, {options.sentences:,} other "
        f"sentences; {len(queries)} queries, tail-patch: {options.patched} of them, {options.depth} rows each\n"
        f"training: {options.epochs:g} epochs, {seconds:.0f} s; loss of a completion's token before {before:.2f}, "
        f"after {after:.2f} nats; tail-patch took {seconds_patched:.0f} s\n"
    )
    columns = ["method", "MRR", "hit@10", "recall@10", "tail-patch", "beyond random", "index s", "score s"]
    print(table(columns, [line(name, found) for name, found in scored.items()]), "\n")
    print(save("facts", {"options": vars(options), "methods": scored, "loss": [before, after]}))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, default=160)
    parser.add_argument("--statements", type=int, default=2, help="rows that state a fact, each in its own pattern")
    parser.add_argument("--sentences", type=int, default=80, help="rows that state none")
    parser.add_argument("--queries", type=int, default=48)
    parser.add_argument("--patched", type=int, default=12, help="queries of which tail-patch is measured")
    parser.add_argument("--depth", type=int, default=2, help="rows of each that tail-patch steps on")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--methods", nargs="+", metavar="NAME", default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="train and score again, whatever an earlier call left")
    options = parser.parse_args()
    if not 0 < options.patched <= options.queries <= options.facts:
        parser.error("--patched must be at most --queries, and these at most --facts")
    return options


def drawn_facts(count: int, statements: int, seed: int) -> list[Fact]:
    """Facts of all relations in turn, one of each subject, asked in a pattern that ends in the object."""
    folder = data_folder() / "facts_pararel"
    patterns: dict[str, list[str]] = json.loads((folder / "patterns.json").read_text())
    generator = random.Random(seed)
    pools: dict[str, list[dict[str, str]]] = defaultdict(list)
    with gzip.open(folder / "facts.jsonl.gz", "rt", encoding="utf-8") as lines:
        for text in lines:
            entry = json.loads(text)
            pools[entry["relation"]].append(entry)
    usable = {
        name: list(dict.fromkeys(patterns[name]))
        for name in sorted(pools)
        if len(set(patterns[name])) > statements and any(_asks(pattern) for pattern in patterns[name])
    }
    found: list[Fact] = []
    subjects: set[str] = set()
    for name in usable:
        generator.shuffle(pools[name])
    while len(found) < count and any(pools[name] for name in usable):
        for name, own in usable.items():
            entry = next((one for one in popped(pools[name]) if one["subject"] not in subjects), None)
            if entry is None or len(found) == count:
                continue
            subjects.add(entry["subject"])
            asked = generator.choice([pattern for pattern in own if _asks(pattern)])
            stated = generator.sample([pattern for pattern in own if pattern != asked], statements)
            found.append(Fact(name, entry["subject"], entry["object"], tuple(stated), asked))
    if len(found) < count:
        raise SystemExit(f"there are only {len(found):,} facts of relations with more than {statements} patterns")
    generator.shuffle(found)
    return found


def popped(pool: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    while pool:
        yield pool.pop()


def _asks(pattern: str) -> bool:
    return bool(_END.search(pattern)) and "[X]" in pattern


def sentences(count: int, seed: int) -> list[str]:
    """Sentences of WikiText of 8 to 20 words."""
    with gzip.open(data_folder() / "lm_text" / "wikitext103_test.txt.gz", "rt", encoding="utf-8") as lines:
        texts = [text for line in lines if " = " not in line for text in line.strip().split(" . ")]
    fit = [f"{text.rstrip(' .')} ." for text in texts if 8 <= len(text.split()) <= 20]
    return random.Random(seed).sample(fit, count)


def trained(corpus: Corpus, options: argparse.Namespace) -> tuple[Run, float]:
    from headwater import CausalLM, Run
    from headwater.training import TrainSettings, train

    folder = place(options) / "run"
    kept = folder.parent / "training.json"
    if kept.is_file() and not options.fresh:
        run = Run.open(folder)
        if run.corpus.fingerprint == corpus.fingerprint:
            return run, float(json.loads(kept.read_text())["seconds"])
    shutil.rmtree(folder.parent, ignore_errors=True)
    say(f"training {options.model} on {len(corpus):,} rows")
    settings = TrainSettings(
        model=options.model, epochs=options.epochs, batch_size=16, checkpoints=1, device="cpu", seed=options.seed
    )
    started = time.perf_counter()
    run = train(corpus, CausalLM(max_length=48, end=False), folder, settings, show=False)
    seconds = time.perf_counter() - started
    kept.write_text(json.dumps({"seconds": seconds}))
    return run, seconds


def place(options: argparse.Namespace) -> Path:
    parts = (Path(options.model).name, options.facts, options.statements, options.sentences, f"{options.epochs:g}",
             options.seed)  # fmt: skip
    return WORK / "facts" / "-".join(str(part) for part in parts)


def learned(run: Run, queries: Corpus) -> tuple[float, float]:
    """Loss of a completion's token, in nats, before the training and after."""
    from headwater.models.load import load_model
    from headwater.training import evaluate

    found = []
    for path in (run.need_recipe().initial, run.checkpoints[-1].path):
        told = evaluate(load_model(path, run.task.auto), run.tokenizer, run.task, queries, show=False)
        found.append(float(told.sums.sum() / told.tokens.sum()))
    return found[0], found[1]


def scored_methods(run: Run, queries: Corpus, options: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], float]:
    """Every method's numbers, each an [mean, low, high]."""
    import numpy as np

    from headwater.evaluation.candidates import Candidate
    from headwater.evaluation.metrics.bootstrap import difference, interval
    from headwater.evaluation.metrics.retrieval import hit, recall, reciprocal_rank
    from headwater.evaluation.scoring import Asked

    labels = queries.table.column("completion").to_pylist()
    asked = Asked(run, queries, labels, place(options) / f"asked-{len(queries)}")
    stated = np.array(run.corpus.table.column("fact").to_pylist())
    right = np.array(queries.table.column("fact").to_pylist())[:, None] == stated[None]
    found: dict[str, dict[str, Any]] = {}
    scored = {}
    for name in dict.fromkeys([*options.methods, CONTROL]):
        say(f"scoring {name}")
        scored[name] = asked.score(Candidate.parse(name), show=False)
        cost = scored[name].cost
        found[name] = {"index_seconds": cost.index_seconds, "score_seconds": cost.score_seconds, "bytes": cost.bytes}
        for title, metric in (("mrr", reciprocal_rank), ("hit", hit), ("recall", recall)):
            found[name][title] = limits(interval(metric(scored[name].scores, right)))
    started = time.perf_counter()
    rises = patched(asked, scored, options)
    for name, each in rises.items():
        found[name]["tail_patch"] = limits(interval(each))
        if name != CONTROL:
            found[name]["beyond_random"] = limits(difference(each, rises[CONTROL]))
    return found, time.perf_counter() - started


def patched(asked: Asked, scored: dict[str, Scored], options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Rise of the completion's mean log-probability, [queries] for each method; a row that several name, once."""
    import numpy as np

    from headwater.evaluation.metrics.tail_patch import tail_patch

    count = options.patched
    say("tail-patch")
    queries = asked.queries.take([*range(count)] * len(scored))
    scores = np.concatenate([one.scores[:count] for one in scored.values()])
    told = tail_patch(asked.run, queries, scores, k=options.depth, show=False)
    rises = told.log_probability.mean(axis=1).reshape(len(scored), count)
    return dict(zip(scored, rises, strict=True))


def limits(found: Interval) -> list[float]:
    return [found.value, found.low, found.high]


def line(name: str, found: dict[str, Any]) -> list[str]:
    def cell(values: list[float] | None, digits: int, sign: str = "") -> str:
        if values is None:
            return "-"
        middle, low, high = (format(value, f"{sign}.{digits}f") for value in values)
        return f"{middle} ({low} to {high})"

    return [
        name,
        cell(found["mrr"], 2),
        cell(found["hit"], 2),
        cell(found["recall"], 2),
        cell(found["tail_patch"], 4, "+"),
        cell(found.get("beyond_random"), 4, "+"),
        f"{found['index_seconds']:.0f}",
        f"{found['score_seconds']:.1f}",
    ]


def say(what: str) -> None:
    print(time.strftime("%H:%M:%S"), what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
