"""`headwater audit RUN mislabels`: rows whose label is likely wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater.cli.audit_common import BUDGET, SEEDS, AsCsv, Budget, Out, Prove, Seed, Seeds, Top, finish, open_audited
from headwater.cli.options import Json, examples

_CALIBRATION = "Confidence"

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater audit runs/first mislabels",
        "headwater audit runs/first mislabels --budget 10m --prove --seeds 3",
        "headwater audit runs/first mislabels --plant 2% --budget 1h",
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
    reviewed: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Calibrate on rows that people looked at: a CSV with the columns row and wrong (yes or no).",
            rich_help_panel=_CALIBRATION,
        ),
    ] = None,
    plant: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Calibrate on labels flipped at random in a copy, such as 2%: optimistic, and takes as long again.",
            rich_help_panel=_CALIBRATION,
        ),
    ] = None,
    prove: Prove = False,
    seeds: Seeds = SEEDS,
) -> None:
    """Find rows whose label is likely wrong: loss, neighbours, influence on clean rows, and models of five folds."""
    from headwater.audit.calibration import read_reviewed, reliability
    from headwater.audit.measured import split_held_out
    from headwater.audit.mislabels import audit_mislabels
    from headwater.errors import UsageError

    if reviewed is not None and plant is not None:
        raise UsageError("--reviewed and --plant both calibrate: give one of them.")
    audited = open_audited(context, "mislabels", out, budget, prints=as_json + as_csv)
    share = None if plant is None else _share(plant)
    corpus = audited.run.corpus if audited.index is None else audited.index.corpus
    worklist, calibrated = audit_mislabels(
        audited.run,
        audited.index,
        left=lambda: audited.left,
        top=top,
        keep=audited.out / "kept",
        reviewed=None if reviewed is None else read_reviewed(reviewed, len(corpus)),
        plant=share,
        seed=seed,
    )
    plot = None if calibrated is None else reliability(calibrated)
    _, test = split_held_out(audited.run, seed)
    finish(audited, worklist, seed=seed, as_json=as_json, as_csv=as_csv, prove=prove, seeds=seeds, test=test, plot=plot)


def _share(text: str) -> float:
    """Read 2% or 0.02. Raises UsageError for what is not above 0 and at most a half."""
    from headwater.errors import UsageError

    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 0.5:
        raise UsageError(f"--plant {text}: write a share of the rows above 0 and at most a half, such as 2%.")
    return share
