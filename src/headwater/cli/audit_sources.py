"""`headwater audit RUN sources`: which source of the rows helps or hurts a set of queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from headwater.cli.audit_common import BUDGET, SEEDS, AsCsv, Budget, Out, Prove, Seed, Seeds, finish, open_audited
from headwater.cli.console import answers
from headwater.cli.options import Json, examples
from headwater.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNLEARNING = "Unlearning"

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater audit runs/first sources --column source",
        "headwater audit runs/first sources --column source --queries hard.jsonl --truth --budget 2h",
        "headwater audit runs/first sources --column source --methods sums,untrac --learning-rate 1e-5",
    )
)
def sources(
    context: typer.Context,
    *,
    column: Annotated[
        str, typer.Option(metavar="NAME", help="The corpus' column that names each row's source.", show_default=False)
    ],
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Labelled texts to ask about. [dim]\\[default: half of the run's evaluation rows][/dim]",
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(metavar="NAME,...", help="sums, untrac-inv, untrac: the cheapest first.")
    ] = "sums,untrac-inv,untrac",
    rows: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Unlearn, or ask, so many rows of each source.", rich_help_panel=_UNLEARNING
        ),
    ] = 256,
    learning_rate: Annotated[
        float, typer.Option(metavar="RATE", help="Of a step.", rich_help_panel=_UNLEARNING)
    ] = 5e-5,
    optimizer: Annotated[
        Literal["adam", "sgd"], typer.Option(help="Of the steps.", rich_help_panel=_UNLEARNING)
    ] = "adam",
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Rows a step. [dim]\\[default: UnTrac 1, UnTrac-Inv all queries][/dim]",
            rich_help_panel=_UNLEARNING,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many. [dim]\\[default: UnTrac each row once, UnTrac-Inv 5][/dim]",
            rich_help_panel=_UNLEARNING,
        ),
    ] = None,
    truth: Annotated[
        bool, typer.Option("--truth", metavar="", help="Retrain without each source too, and grade the methods by it.")
    ] = False,
    out: Out = None,
    budget: Budget = BUDGET,
    seed: Seed = 0,
    as_json: Json = False,
    as_csv: AsCsv = False,
    prove: Prove = False,
    seeds: Seeds = SEEDS,
) -> None:
    """Find which source of the training rows helps the queries, and which hurts them.

    By the summed scores of its rows, and by UnTrac and UnTrac-Inv, which unlearn; --truth leaves each source out of a
    retraining. A source that hurts is suggested for deletion.
    """
    from headwater.audit.measured import split_held_out
    from headwater.audit.sources import METHODS, audit_sources
    from headwater.audit.untrac import Unlearning
    from headwater.cli.places import labelled

    audited = open_audited(context, "sources", out, budget, prints=as_json + as_csv)
    chosen = list(dict.fromkeys(name.strip() for name in methods.split(",")))
    for name in chosen:
        if name not in METHODS:
            raise UsageError(f"--methods {name!r} is not one of {', '.join(METHODS)}.")
    clean, test = split_held_out(audited.run, seed)
    asked = labelled(audited.run, queries, {}) if queries is not None else None if clean is None else clean.corpus
    if asked is None:
        raise DataError(f"{audited.run.folder}: the run kept no evaluation rows to ask about. Give --queries FILE.")
    worklist = audit_sources(
        audited.run,
        audited.index,
        asked,
        column,
        methods=chosen,
        how=Unlearning(optimizer, learning_rate, batch, steps),
        rows=rows,
        truth=audited.out / "without" if truth else None,
        seeds=seeds,
        seconds=audited.left,
        seed=seed,
    )
    if not (as_json or as_csv):
        _show(worklist.figures)
    plot = _drawn(worklist.figures)
    finish(audited, worklist, seed=seed, as_json=as_json, as_csv=as_csv, prove=prove, seeds=seeds, test=test, plot=plot)


def _show(figures: Mapping[str, Any]) -> None:
    """Print the sources, the most harmful first."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    names = _columns(figures)
    table.add_column("source", max_width=40, overflow="ellipsis")
    for name in ("rows", *names):
        table.add_column(name, justify="right")
    for source in _ordered(figures):
        cells = [f"{source[name]:+.3g}" if name in source else "-" for name in names]
        if source["low"] is not None:
            at = names.index("sums")
            cells[at] += f" ({source['low']:+.3g} to {source['high']:+.3g})"
        table.add_row(*map(Text, (source["source"], f"{source['rows']:,}", *cells)))
    answers().print(table)


def _drawn(figures: Mapping[str, Any]) -> Markup:
    """The same table for the page."""
    names = _columns(figures)
    head = Markup("").join(Markup("<th scope=col>{}</th>").format(name) for name in ("source", "rows", *names))
    rows = []
    for source in _ordered(figures):
        cells = [f"{source['rows']:,}", *(f"{source[name]:+.3g}" if name in source else "-" for name in names)]
        told = Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells)
        rows.append(Markup("<tr><th scope=row>{}</th>{}</tr>").format(source["source"], told))
    caption = f"Influence on {figures['queries']:,} queries; positive helps. Each method has a scale of its own."
    return Markup("<figcaption>{}</figcaption><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(
        caption, head, Markup("").join(rows)
    )


def _columns(figures: Mapping[str, Any]) -> list[str]:
    return [name for name in ("sums", "untrac-inv", "untrac", "truth") if any(name in s for s in figures["sources"])]


def _ordered(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = _columns(figures)
    key = names[-1] if names and names[-1] == "truth" else names[0] if names else "source"
    return sorted(figures["sources"], key=lambda source: source.get(key, 0.0))
