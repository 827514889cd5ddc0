"""`headwater audit RUN duplicates`: near-duplicates within training, and between training and held-out rows."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.cli.audit_common import BUDGET, SEEDS, AsCsv, Budget, Out, Prove, Seed, Seeds, finish, open_audited
from headwater.cli.options import Json, examples

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater audit runs/first duplicates",
        "headwater audit runs/first duplicates --held-out test.jsonl --threshold 0.7 --json",
    )
)
def duplicates(
    context: typer.Context,
    *,
    held_out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Held-out rows that may have leaked. [dim]\\[default: the run's evaluation rows][/dim]",
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(metavar="J", help="Least Jaccard similarity of two texts.")] = 0.8,
    out: Out = None,
    budget: Budget = BUDGET,
    seed: Seed = 0,
    as_json: Json = False,
    as_csv: AsCsv = False,
    prove: Prove = False,
    seeds: Seeds = SEEDS,
) -> None:
    """Find training rows that are nearly the same, labels that contradict each other, and leaked held-out rows.

    Comparing 10,000 short texts takes seconds, 200,000 some minutes.
    """
    from headwater.audit.duplicates import audit_duplicates
    from headwater.cli.places import labelled

    audited = open_audited(context, "duplicates", out, budget, prints=as_json + as_csv)
    run = audited.run
    held = labelled(run, held_out, {}) if held_out is not None else run.eval_corpus
    worklist, leaks = audit_duplicates(run, held, threshold=threshold, left=lambda: audited.left)
    test = None
    if held is not None:
        leaked = {leak.held_out for leak in leaks}
        kept = [row for row in range(len(held)) if row not in leaked]
        test = held.take(kept) if kept else None
    finish(audited, worklist, seed=seed, as_json=as_json, as_csv=as_csv, prove=prove, seeds=seeds, test=test)
