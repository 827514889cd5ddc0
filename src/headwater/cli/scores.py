"""`headwater scores`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from headwater.attribution.estimate import check_disk
from headwater.cli.console import answers, duration, print_json, size
from headwater.cli.methods import MethodName, method_flags
from headwater.cli.options import Given, Json, examples, takes
from headwater.cli.places import QUERY_FLAGS, Places, open_indexes, read_queries

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater scores runs/first --queries test.jsonl --out scores.npy",
        "python -c \"import numpy; print(numpy.load('scores.npy', mmap_mode='r').shape)\"",
    )
)
@takes(options=method_flags(), plain=QUERY_FLAGS)
def scores(
    places: Places,
    *,
    queries: Annotated[
        str,
        typer.Option(metavar="FILE", help="Texts, with their columns called as in training.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE.npy", help="Where to put the scores: float32, queries by rows.", show_default=False),
    ],
    predicted: Annotated[
        bool, typer.Option("--predicted", metavar="", help="Score what the model says, whatever FILE's labels.")
    ] = False,
    method: MethodName = "tracin-we",
    options: Given,
    plain: Given,
    as_json: Json = False,
) -> None:
    """Score queries against every training row, into a .npy file.

    The loss of a query is taken at its label, if FILE has a column of labels, else at the label that the model
    predicts. Memory does not grow with the number of queries.
    """
    index = open_indexes(places, plain)
    corpus, labels = read_queries(index, {**plain, "queries": queries}, predicted=predicted)
    check_disk(4 * len(corpus) * len(index), out)
    started = time.monotonic()
    index.scores(corpus, labels, method=method, out=out, **options)
    seconds = time.monotonic() - started
    kind = "predicted" if labels is None else "given"
    if as_json:
        facts = {"out": str(out), "method": method, "queries": len(corpus), "rows": len(index)}
        print_json({**facts, "labels": kind, "seconds": seconds})
        return
    of_whom = "the labels that the model predicts" if labels is None else f"the labels of {corpus.name}"
    told = f"float32 [{len(corpus):,} queries, {len(index):,} rows], {size(4 * len(corpus) * len(index))}"
    answers().print(f"Wrote {out}: {told}, {duration(seconds)}; {of_whom}.", markup=False, soft_wrap=True)
