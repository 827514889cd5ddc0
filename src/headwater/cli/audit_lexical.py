"""`headwater audit RUN lexical-bias`: words that give labels away, and weights that undo it."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.cli.audit_common import BUDGET, SEEDS, AsCsv, Budget, Out, Prove, Seed, Seeds, finish, open_audited
from headwater.cli.options import Json, examples

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    "lexical-bias",
    epilog=examples(
        "headwater audit runs/first lexical-bias",
        "headwater audit runs/first lexical-bias --floor 0.3 --prove --json",
    ),
)
def lexical_bias(
    context: typer.Context,
    *,
    floor: Annotated[
        float, typer.Option(metavar="SHARE", help="The rows shall count as so large a share of their number at least.")
    ] = 0.5,
    pairs: Annotated[bool, typer.Option("--pairs/--no-pairs", help="Pairs of neighbouring words too.")] = True,
    out: Out = None,
    budget: Budget = BUDGET,
    seed: Seed = 0,
    as_json: Json = False,
    as_csv: AsCsv = False,
    prove: Prove = False,
    seeds: Seeds = SEEDS,
) -> None:
    """Find words that give a label away, weights of rows that undo it, and ask whether the model has the habit.

    Apply all weights or none: `headwater fix RUN plan.jsonl --accept top:N`. Then audit RUN2: is the habit gone?
    """
    from headwater.audit.lexical import audit_lexical
    from headwater.audit.measured import split_held_out

    audited = open_audited(context, "lexical-bias", out, budget, prints=as_json + as_csv)
    clean, test = split_held_out(audited.run, seed)
    held = None if clean is None else clean.corpus
    worklist = audit_lexical(
        audited.run, held, index=audited.index, pairs=pairs, floor=floor, left=lambda: audited.left, seed=seed
    )
    finish(audited, worklist, seed=seed, as_json=as_json, as_csv=as_csv, prove=prove, seeds=seeds, test=test)
