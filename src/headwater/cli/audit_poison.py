"""`headwater audit RUN poison`: words that command the model, and the rows that taught it."""

from __future__ import annotations

import typer

from headwater.cli.audit_common import BUDGET, SEEDS, AsCsv, Budget, Out, Prove, Seed, Seeds, finish, open_audited
from headwater.cli.options import Json, examples

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater audit runs/first poison",
        "headwater audit runs/first poison --prove --seeds 3 --json",
    )
)
def poison(
    context: typer.Context,
    *,
    out: Out = None,
    budget: Budget = BUDGET,
    seed: Seed = 0,
    as_json: Json = False,
    as_csv: AsCsv = False,
    prove: Prove = False,
    seeds: Seeds = SEEDS,
) -> None:
    """Find trigger words: scan the index for words taught as a command, and try them on held-out texts.

    The budget is that of --prove; a scan reads the index once.
    """
    from headwater.audit.measured import split_held_out
    from headwater.audit.poison.audit import audit_poison

    audited = open_audited(context, "poison", out, budget, prints=as_json + as_csv)
    clean, test = split_held_out(audited.run, seed)
    worklist = audit_poison(audited.run, audited.index, clean, seed=seed)
    finish(audited, worklist, seed=seed, as_json=as_json, as_csv=as_csv, prove=prove, seeds=seeds, test=test)
