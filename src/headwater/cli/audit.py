"""`headwater audit RUN WHAT`: one command an audit; each is written in a file of its own and registered here."""

from __future__ import annotations

import typer

from headwater.cli import audit_duplicates, audit_lexical, audit_mislabels, audit_poison, audit_sources
from headwater.cli.options import examples
from headwater.cli.places import RunPlace

app = typer.Typer(rich_markup_mode="rich", add_completion=False, no_args_is_help=True)


@app.callback(
    epilog=examples(
        "headwater audit runs/first mislabels",
        "headwater audit runs/first mislabels --budget 30m --prove --json",
    )
)
def audit(context: typer.Context, run: RunPlace) -> None:
    """Find what is wrong in the training rows, and write a plan that repairs it.

    Every audit prints a ranked worklist and says how many rows, how sure, and what it cost; it writes
    worklist.{html,json,csv} and plan.jsonl, which `headwater fix` applies and proves.
    """
    context.obj = run


for _what in (audit_mislabels, audit_poison, audit_lexical, audit_duplicates, audit_sources):
    app.registered_commands += _what.app.registered_commands
