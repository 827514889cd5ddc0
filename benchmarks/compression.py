"""What compression of token gradients costs in quality: bytes a row, and how far the answers still are the exact ones.

MiniLM, fine-tuned here on AG News (2,000 rows, 3 epochs, texts of at most 64 tokens), its first and its last
checkpoint (--last: that alone, whose rows differ more); the queries are test texts with the predicted labels.
Gradients are computed once, into a float32 index; every other index is encoded from that one by the code that
`headwater index` writes with, so "write s" is encoding, ordering, writing and checksums, without the passes through the
model, which are the same for all. "scan s" scores all queries with all rows, without the queries' own passes. Both are
CPU seconds, the scans taken in turn. Bytes are those of segments. Recall is of the 20 strongest proponents (+) and
opponents (-) of the exact scores; "normalised" is their mean for normalize="train".

A projection is no option of Headwater: here the vectors are multiplied by seeded random signs before they are encoded.

    python benchmarks/compression.py [--rows 2000] [--epochs 3] [--queries 60] [--last] [--repeats 3] [--threads 1]
        [--dtypes int8 int4]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from report import WORK, Goal, heading, save, table, use_threads

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from headwater import Index, Run
    from headwater.gradients import TokenGradients
    from headwater.methods import TokenPart
    from headwater.store import PostingDtype, RowRange, Store, StoredCheckpoint

K = 20
LEAST_RECALL = 0.99


@dataclass(frozen=True)
class Kind:
    """How an index is stored."""

    dtype: PostingDtype = "float16"
    energy: float | None = None
    max_words: int | None = None
    projection: int | None = None

    def __str__(self) -> str:
        named = [
            f"energy {self.energy}" if self.energy else "",
            f"max_words {self.max_words}" if self.max_words else "",
        ]
        named.append(f"projected to {self.projection}" if self.projection else "")
        return ", ".join(filter(None, [self.dtype, *named]))


PLAIN = Kind("float16")
KINDS = [
    Kind("float32"), PLAIN, Kind("int8"),
    *(Kind("float32", share) for share in (0.99, 0.999, 0.9999)),
    *(Kind("float16", share) for share in (0.99, 0.999, 0.9999)),
    *(Kind("int8", share) for share in (0.99, 0.999, 0.9999)),
    *(Kind("int8", share) for share in (0.995, 0.998)),
    *(Kind("int4", share) for share in (None, 0.9995, 0.999, 0.998)),
    *(Kind("float16", None, words) for words in (10, 20)),
    Kind("int8", 0.999, 20),
    *(Kind("int8", share, None, size) for size in (64, 192) for share in (None, 0.999)),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--last", action="store_true", help="the last checkpoint alone")
    parser.add_argument("--repeats", type=int, default=3, help="scans; their median is shown")
    parser.add_argument("--dtypes", nargs="+", metavar="DTYPE", help="only these, and plain float16; not projected")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    use_threads(options.threads)
    title = heading("Compression of token gradients")
    from workloads import ag_news_test

    exact = exact_index(trained(options.rows, options.epochs))
    parts = asked(exact, [row["text"] for row in ag_news_test(options.queries)])
    few = [kind for kind in KINDS if kind == PLAIN or (kind.dtype in (options.dtypes or ()) and not kind.projection)]
    kinds = few if options.dtypes else KINDS
    found = measured(parts[-1:] if options.last else parts, options.queries, options.repeats, kinds)
    print(title, "\n")
    columns = ["stored as", "postings a row", "bytes a row", "times fewer", "Spearman", "top-20 +", "top-20 -"]
    print(
        table([*columns, "normalised", "write s", "scan s"], [line(one, found[str(PLAIN)]) for one in found.values()])
    )
    faithful = [one for one in found.values() if min(one["recall"]) >= LEAST_RECALL]
    best = min(faithful, key=lambda one: one["bytes"])
    fewer = found[str(PLAIN)]["bytes"] / best["bytes"]
    name = f"times fewer bytes than float16 at recall >= {LEAST_RECALL}, both signs: {best['kind']}"
    print(f"\n{Goal(name, fewer, 10)}")
    print(save("compression-last" if options.last else "compression", found))


def told(what: str) -> None:
    print(what, "...", file=sys.stderr, flush=True)


def trained(rows: int, epochs: int) -> Run:
    """Train once; a run that is there is taken."""
    from headwater import Classification, Corpus, Run
    from headwater.training import TrainSettings, train
    from workloads import ag_news

    folder = WORK / "runs" / f"compression-{rows}-{epochs}"
    if (folder / "headwater" / "run.json").exists():
        return Run.open(folder)
    told(f"training MiniLM on {rows:,} rows")
    shutil.rmtree(folder, ignore_errors=True)
    settings = TrainSettings(model="minilm", epochs=epochs, checkpoints=epochs)
    corpus = Corpus.read(ag_news(rows), name="ag_news")
    return train(corpus, Classification(max_length=64), folder, settings, show=False)


def exact_index(run: Run) -> Index:
    """Index the first and the last checkpoint in float32; what is there already is taken."""
    from headwater import Index

    told("the exact index")
    names = [run.checkpoints[0].name, run.checkpoints[-1].name]
    folder = WORK / "indexes" / run.folder.name
    return Index.build(run, folder, dtype="float32", checkpoints=names, show=False)


def asked(index: Index, texts: Sequence[str]) -> Sequence[TokenPart]:
    """Pass the queries through the model once, for all ways of storing."""
    from headwater.methods import get_method

    told(f"passing {len(texts)} queries")
    corpus, labels = index._read(texts, None)
    question = index._question(corpus, labels, get_method("tracin-we"), 0)
    return question.tokens(None)


def measured(
    parts: Sequence[TokenPart], queries: int, repeats: int, kinds: Sequence[Kind]
) -> dict[str, dict[str, Any]]:
    """Build every kind, then scan all of them in turn, so that a busy moment of the machine falls on none alone."""
    truth = {norm: scan(parts, queries, None, norm)() for norm in (None, "train")}
    found: dict[str, dict[str, Any]] = {}
    scans: dict[str, Callable[[], np.ndarray]] = {}
    for kind in kinds:
        told(str(kind))
        began = time.process_time()
        store = written(parts[0].store, [part.checkpoint for part in parts], kind)
        writing = time.process_time() - began
        here = [replace(part, store=store) for part in projected(parts, kind.projection)]
        scans[str(kind)] = scan(here, queries, kind.max_words, None)
        scores = scans[str(kind)]()
        normalised = scan(here, queries, kind.max_words, "train")()
        segments = [store.segment(checkpoint, rows) for rows, checkpoint in store.manifest.segments()]
        count = store.manifest.rows * len(store.manifest.checkpoints)
        size = sum(entry.bytes for name, entry in store.manifest.files.items() if name.startswith("segments/"))
        found[str(kind)] = {
            "kind": str(kind),
            "options": asdict(kind),
            "postings": sum(len(segment.postings) for segment in segments) / count,
            "bytes": size / count,
            "spearman": spearman(scores, truth[None]),
            "recall": [recall(scores, truth[None], sign) for sign in (1, -1)],
            "normalised": statistics.mean(recall(normalised, truth["train"], sign) for sign in (1, -1)),
            "write": writing,
            "scan": [],
        }
    told("scans")
    for _ in range(repeats):
        for name, work in scans.items():
            found[name]["scan"].append(clocked(work))
    shutil.rmtree(WORK / "indexes" / "compressed")
    return found


def written(exact: Store, checkpoints: Sequence[StoredCheckpoint], kind: Kind) -> Store:
    """Encode the exact store's gradients in another way."""
    from headwater.store import Store, build_store

    folder = WORK / "indexes" / "compressed" / str(kind).replace(", ", "-").replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    plan = replace(
        exact.manifest,
        dtype=kind.dtype,
        energy=kind.energy,
        max_words=kind.max_words,
        checkpoints=tuple(checkpoints),
        files={},
        task={**exact.manifest.task, "projection": kind.projection} if kind.projection else exact.manifest.task,
    )

    def gradients_of(checkpoint: StoredCheckpoint, rows: RowRange) -> Iterator[TokenGradients]:
        yield from gradients(exact, checkpoint, rows, kind.projection)

    build_store(folder, plan, gradients_of, others={}, kept=lambda _: None)
    return Store.open(folder)


def gradients(
    store: Store, checkpoint: StoredCheckpoint, rows: RowRange, projection: int | None, batch: int = 256
) -> Iterator[TokenGradients]:
    """Read a segment back as what was captured: by row, then token."""
    import numpy as np
    import torch

    from headwater.gradients import TokenGradients

    postings = store.segment(checkpoint, rows).postings
    tokens = postings.token_of()
    order = np.lexsort((tokens, postings.rows))
    edges = np.searchsorted(postings.rows[order], np.arange(0, rows.stop - rows.start, batch))
    for at in np.split(order, edges[1:]):
        vectors = postings.gradients(at)
        yield TokenGradients(
            torch.from_numpy(postings.rows[at].astype(np.int64)) + rows.start,
            torch.from_numpy(tokens[at]),
            vectors if projection is None else vectors @ signs(vectors.shape[1], projection),
        )


def projected(parts: Sequence[TokenPart], projection: int | None) -> Sequence[TokenPart]:
    """The queries' side, projected as the rows' side was."""
    if projection is None:
        return parts
    found = []
    for part in parts:
        vectors = part.queries.gradients(slice(None)) @ signs(part.queries.dimension, projection)
        found.append(replace(part, queries=replace(part.queries, payload=vectors)))
    return found


def signs(width: int, size: int) -> Tensor:
    """A seeded matrix of +-1/sqrt(size) that keeps dot products on average."""
    import torch

    drawn = torch.randint(0, 2, (width, size), generator=torch.Generator().manual_seed(0))
    found: Tensor = (2 * drawn - 1).float() / size**0.5
    return found


def scan(parts: Sequence[TokenPart], queries: int, max_words: int | None, normalize: Any) -> Callable[[], np.ndarray]:
    """Return what scores all queries with all rows."""
    import numpy as np

    from headwater.methods.tracin_we import TracInWE, match
    from headwater.store import threads_for

    matched = match(parts, queries, TracInWE(max_words=max_words))
    # an index with `energy` refuses to be normalised: the table shows why
    matched = replace(matched, options=replace(matched.options, normalize=normalize))

    def run() -> np.ndarray:
        scores = np.zeros((queries, parts[0].store.manifest.rows), dtype=np.float32)
        with threads_for(queries):
            matched.score(scores)
        return scores

    return run


def clocked(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def spearman(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean over queries of the rank correlation over all rows."""
    from scipy.stats import spearmanr

    return statistics.mean(float(spearmanr(a, b).statistic) for a, b in zip(scores, truth, strict=True))


def recall(scores: np.ndarray, truth: np.ndarray, sign: int) -> float:
    """The share of the exact top 20 that is still there, mean over queries; ties go to the lower row."""
    import numpy as np

    ours, exact = (np.argsort(-sign * each, axis=1, kind="stable")[:, :K] for each in (scores, truth))
    return statistics.mean(len(np.intersect1d(a, b)) / K for a, b in zip(ours, exact, strict=True))


def line(found: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    return [
        found["kind"],
        f"{found['postings']:.1f}",
        f"{found['bytes']:,.0f}",
        f"{plain['bytes'] / found['bytes']:.1f}",
        f"{found['spearman']:.4f}",
        *(f"{share:.4f}" for share in found["recall"]),
        f"{found['normalised']:.4f}",
        f"{found['write']:.1f}",
        f"{statistics.median(found['scan']):.2f}",
    ]


if __name__ == "__main__":
    main()
