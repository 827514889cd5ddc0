"""`headwater scores`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
import typer

from headwater.attribution.aggregate import Over
from headwater.attribution.estimate import check_disk
from headwater.cli.console import answers, duration, print_json, size
from headwater.cli.methods import MethodName, chosen_method, method_flags
from headwater.cli.options import Flag, Given, Json, examples, takes
from headwater.cli.places import QUERY_FLAGS, Places, open_indexes, read_queries
from headwater.cli.projection import layer_pattern
from headwater.errors import UsageError
from headwater.files import atomic_file

if TYPE_CHECKING:
    from headwater import Corpus, Index

_PANEL = "One number a row"
_FLAGS = [
    Flag(
        "aggregate",
        Literal["mean", "rank", "vote"],
        "Put the scores of all queries together: mean score, mean rank, or votes against each query's lowest rows.",
        panel=_PANEL,
    ),
    Flag("share", float, "vote: the lowest part of the rows that is voted against.", 0.2, _PANEL, "X"),
    Flag("over", str, "Rank or vote in each of these apart: layers, checkpoints, or both with a comma.", None, _PANEL),
]

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater scores runs/first --queries test.jsonl --out scores.npy",
        "headwater scores runs/first --queries clean.jsonl --method datainf --aggregate vote --out harm.npy",
        "python -c \"import numpy; print(numpy.load('scores.npy', mmap_mode='r').shape)\"",
    )
)
@takes(options=method_flags(), plain=QUERY_FLAGS, aggregation=_FLAGS)
def scores(
    places: Places,
    *,
    queries: Annotated[
        str,
        typer.Option(metavar="FILE", help="Texts, with their columns called as in training.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.npy",
            help="Where to put the scores: float32, queries by rows; or, with --aggregate, float64, one a row.",
            show_default=False,
        ),
    ],
    predicted: Annotated[
        bool, typer.Option("--predicted", metavar="", help="Score what the model says, whatever FILE's labels.")
    ] = False,
    aggregation: Given,
    method: MethodName = "tracin-we",
    options: Given,
    plain: Given,
    as_json: Json = False,
) -> None:
    """Score queries against every training row, into a .npy file.

    The loss of a query is taken at its label, if FILE has a column of labels, else at the label that the model
    predicts. Memory does not grow with the number of queries. With --aggregate the file holds one number a row, over
    all queries: the rows that stand lowest harm them most.
    """
    together = _aggregation(aggregation)
    chosen = chosen_method(method, options)
    index = open_indexes(places, plain, chosen, layer_pattern(chosen.make_options(**options)))
    corpus, labels = read_queries(index, {**plain, "queries": queries}, predicted=predicted)
    started = time.monotonic()
    if together:
        told = _write_aggregate(index, corpus, labels, out, {**together, "method": method, **options})
    else:
        told = _write_matrix(index, corpus, labels, out, {"method": method, **options})
    seconds = time.monotonic() - started
    if as_json:
        facts = {"out": str(out), "method": method, "queries": len(corpus), "rows": len(index)}
        kind = "predicted" if labels is None else "given"
        print_json({**facts, **({"aggregate": together} if together else {}), "labels": kind, "seconds": seconds})
        return
    of_whom = f"the labels of {corpus.name}" if labels is not None else _UNSAID.get(index.run.task.kind, _PREDICTED)
    console = answers()
    console.print(f"Wrote {out}: {told}, {duration(seconds)}; {of_whom}.", markup=False, soft_wrap=True)
    if together:
        console.print("The rows that stand lowest harm these queries most; the highest help them.")


def _write_matrix(index: Index, corpus: Corpus, labels: list[Any] | None, out: Path, how: dict[str, Any]) -> str:
    count = 4 * len(corpus) * len(index)
    check_disk(count, out, less="fewer queries, or one number a row (--aggregate)")
    index.scores(corpus, labels, out=out, **how)
    return f"float32 [{len(corpus):,} queries, {len(index):,} rows], {size(count)}"


def _write_aggregate(index: Index, corpus: Corpus, labels: list[Any] | None, out: Path, how: dict[str, Any]) -> str:
    values = index.aggregate(corpus, labels, **how)
    with atomic_file(out) as temporary, temporary.open("wb") as file:
        np.save(file, values)
    return f"float64 [{len(index):,} rows], {_SAYS[how['how']]} over {len(corpus):,} queries"


_PREDICTED = "the labels that the model predicts"
_UNSAID = {
    "masked-lm": "the tokens behind the masks",
    "causal-lm": "the model's own continuations",
    "seq2seq": "the model's own answers",
}
_SAYS = {"mean": "mean score", "rank": "mean rank (0: lowest)", "vote": "votes against (0: none)"}


def _aggregation(given: Given) -> dict[str, Any]:
    """Return how scores are put together; empty: they are not. Raises UsageError."""
    how = given.get("aggregate")
    for name in ("share", "over"):
        if name in given and how is None:
            raise UsageError(f"--{name} goes with --aggregate.")
    if "share" in given and how != "vote":
        raise UsageError("--share goes with --aggregate vote.")
    if how is None:
        return {}
    over = [name.strip() for name in str(given.get("over", "")).split(",") if name.strip()]
    for name in over:
        if name not in get_args(Over):
            raise UsageError(f"--over takes {' and '.join(get_args(Over))} apart; {name!r} is neither.")
    return {"how": how, "over": over, **({"share": given.get("share", 0.2)} if how == "vote" else {})}
