"""`headwater audit RUN mislabels`: rows whose label is likely wrong."""

from __future__ import annotations

import typer

from headwater.cli.audit_common import BUDGET, SEEDS, AsCsv, Budget, Out, Prove, Seed, Seeds, Top, finish, open_audited
from headwater.cli.options import Json, examples

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater audit runs/first mislabels",
        "headwater audit runs/first mislabels --budget 10m --prove --seeds 3",
        "headwater audit runs/first mislabels --top 200 --csv > suspects.csv",
    )
)
def mislabels(
    context: typer.Context,
    *,
    out: Out = None,
    budget: Budget = BUDGET,
    top: Top = None,
    seed: Seed = 0,
    as_json: Json = False,
    as_csv: AsCsv = False,
    prove: Prove = False,
    seeds: Seeds = SEEDS,
) -> None:
    """Find rows whose label is likely wrong: loss, neighbours, influence on clean rows, and models of five folds."""
    from headwater.audit.mislabels import audit_mislabels, split_held_out

    audited = open_audited(context, "mislabels", out, budget, prints=as_json + as_csv)
    worklist = audit_mislabels(
        audited.run, audited.index, left=lambda: audited.left, top=top, keep=audited.out / "folds", seed=seed
    )
    _, test = split_held_out(audited.run, seed)
    finish(audited, worklist, seed=seed, as_json=as_json, as_csv=as_csv, prove=prove, seeds=seeds, test=test)
