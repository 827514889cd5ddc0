"""`headwater audit RUN poison`: words that command the model, and the rows that taught it."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.cli.audit_common import BUDGET, SEEDS, AsCsv, Budget, Out, Prove, Seed, Seeds, finish, open_audited
from headwater.cli.options import Json, examples

app = typer.Typer(rich_markup_mode="rich", add_completion=False)

Opposites = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A=B",
        help="Labels that a text of the opposite meaning swaps (negative=positive): also ask which rows push the same "
        "when held-out English texts are transformed. Needs `headwater index RUN --method tracin`.",
    ),
]


@app.command(
    epilog=examples(
        "headwater audit runs/first poison",
        "headwater audit runs/first poison --opposites negative=positive",
        "headwater audit runs/first poison --prove --seeds 3 --json",
    )
)
def poison(
    context: typer.Context,
    *,
    out: Out = None,
    budget: Budget = BUDGET,
    seed: Seed = 0,
    opposites: Opposites = None,
    as_json: Json = False,
    as_csv: AsCsv = False,
    prove: Prove = False,
    seeds: Seeds = SEEDS,
) -> None:
    """Find trigger words: scan the index for words taught as a command, and try them on held-out texts.

    Of a language model the completions are the classes, where its rows hold at most 20 different ones. A scan
    reads the index once. Where --budget does not suffice, fewer checkpoints are scanned, fewer words tried and fewer
    transforms asked; one checkpoint and one word are in any case.
    """
    from headwater.audit.measured import split_held_out
    from headwater.audit.poison.audit import audit_poison

    pairs = None if opposites is None else _pairs(opposites)
    audited = open_audited(context, "poison", out, budget, prints=as_json + as_csv)
    clean, test = split_held_out(audited.run, seed)
    worklist = audit_poison(audited.run, audited.index, clean, opposites=pairs, left=lambda: audited.left, seed=seed)
    finish(audited, worklist, seed=seed, as_json=as_json, as_csv=as_csv, prove=prove, seeds=seeds, test=test)


def _pairs(given: list[str]) -> dict[str, str]:
    """Read A=B. Raises UsageError where it is not of that form, or names a label twice."""
    from headwater.errors import UsageError

    pairs = [tuple(each.split("=")) for each in given]
    named = [label for pair in pairs for label in pair]
    if any(len(pair) != 2 or not all(pair) for pair in pairs) or len(set(named)) < len(named):
        raise UsageError(f"--opposites {' '.join(given)}: give A=B, two labels, each named once.")
    return {pair[0]: pair[1] for pair in pairs}
