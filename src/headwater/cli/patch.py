"""`headwater patch`: a few small steps that mend wrong answers of the model, until its next training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from headwater.cli.console import answers, asides, print_json
from headwater.cli.options import Given, Json, examples, takes
from headwater.cli.places import PLAIN_FLAGS, RunPlace, labelled, open_indexes
from headwater.errors import DataError, UsageError

if TYPE_CHECKING:
    from headwater import Corpus, Index
    from headwater.remedies.patch import Patched

_WHICH = "Which answers"

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater patch runs/first --text 'never a dull moment' --label positive --out runs/patched",
        "headwater patch runs/first --wrong 10 --by representation --out runs/patched",
        "headwater patch runs/first --row 17 --row 40 --steps 5 --learning-rate 5e-5 --json",
    )
)
@takes(plain=PLAIN_FLAGS)
def patch(
    run: RunPlace,
    *,
    text: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="A text that shall be answered with --label.", rich_help_panel=_WHICH),
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="LABEL", help="Its right label.", rich_help_panel=_WHICH)] = None,
    row: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=0, help="A held-out row, from 0. Repeat for several.", rich_help_panel=_WHICH),
    ] = None,
    wrong: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="The first N held-out rows that are answered wrong.", rich_help_panel=_WHICH
        ),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Held-out rows, if not the run's evaluation rows.", rich_help_panel=_WHICH),
    ] = None,
    by: Annotated[
        Literal["index", "representation", "lissa", "random"],
        typer.Option(help="What chooses the rows to step on; lissa orders the index's candidates anew."),
    ] = "index",
    candidates: Annotated[int, typer.Option(metavar="N", min=1, help="Rows that may be stepped on.")] = 100,
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="Rows of one step.")] = 10,
    replay: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random rows of one step beside these: they hold all else in place.")
    ] = 10,
    steps: Annotated[
        int, typer.Option(metavar="N", min=1, help="Steps at most; fewer where all is right before.")
    ] = 10,
    learning_rate: Annotated[float, typer.Option(metavar="RATE", help="Of each step (Adam).")] = 2e-5,
    budget: Annotated[str, typer.Option(metavar="TIME", help="Of LiSSA (90s, 10m).")] = "1m",
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN2", help="Write the patched model as a run of its own.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Draws random rows.")] = 0,
    plain: Given,
    as_json: Json = False,
) -> None:
    """Mend wrong answers by a few small steps on the training rows that speak for the right ones.

    It tells what else changed on the other held-out rows, beside as many steps on random rows. RUN stays as it is. The
    corpus does, too: the next training loses the patch. `headwater fix` repairs the rows.
    """
    from headwater.evaluation.settings import seconds_of
    from headwater.remedies.patch import Patching
    from headwater.remedies.patch import patch as apply

    index = open_indexes([run], plain)
    how = Patching(by, candidates, rows, replay, steps, learning_rate, seconds_of(budget))
    held = labelled(index.run, queries, plain) if queries is not None else index.run.eval_corpus
    targets = _targets(index, held, text, label, row or [], wrong)
    told = apply(index, targets, held, how, out=None if out is None else out.resolve(), seed=seed)
    if as_json:
        print_json({"run": str(run), "out": None if out is None else str(out), **told.to_dict()})
        return
    _show(told)
    if out is not None:
        asides().print(f"Wrote {out}. Ask it: headwater index {out}", markup=False, soft_wrap=True)


def _targets(
    index: Index, held: Corpus | None, text: str | None, label: str | None, rows: list[int], wrong: int | None
) -> Corpus:
    """The queries that shall be answered right."""
    from headwater.runs import Columns, Corpus
    from headwater.training import predict

    if sum((text is not None, bool(rows), wrong is not None)) != 1:
        raise UsageError("which answers? Give --text with --label, or --row N, or --wrong N: one of them.")
    if (text is None) != (label is None):
        raise UsageError("--text and --label go together.")
    if text is not None:
        return Corpus.read([{"text": text, "label": label}], Columns(text="text", label="label"), name="--text")
    if held is None:
        raise DataError(f"{index.run.folder}: the run kept no evaluation rows. Give a file: --queries FILE.")
    for row in rows:
        if row >= len(held):
            raise DataError(f"{held.name} has {len(held):,} rows: there is no row {row:,} (they count from 0).")
    if rows:
        return held.take(rows)
    run = index.run
    found = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, held, show=False)
    mistaken = [number for number, right in enumerate(found.correct) if not right]
    if not mistaken:
        raise DataError(f"{held.name}: every row is answered right: there is nothing to patch.")
    return held.take(mistaken[:wrong])


def _show(told: Patched) -> None:
    """Print the targets, what else changed, and what to expect."""
    from headwater.remedies.page import signed
    from headwater.remedies.patch import LOST

    console = answers()
    fixed = sum(target.fixed for target in told.targets)
    console.print(Text(f"{fixed} of {len(told.targets)} answers fixed in {told.steps} steps.", "bold"))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("right", "said", "now", "probability"):
        table.add_column(name)
    table.add_column("text", overflow="ellipsis", max_width=60, no_wrap=True)
    for target in told.targets[:20]:
        chance = f"{target.probability_before:.2f} to {target.probability_after:.2f}"
        table.add_row(*map(Text, (target.label, target.before, target.after, chance, " ".join(target.text.split()))))
    console.print(table)
    for name, found in (("other held-out rows", told.others), ("the same steps on random rows", told.control)):
        if found is not None:
            points = f"{signed(found.accuracy.value, 'points')} points of accuracy"
            ends = f"({signed(found.accuracy.low, 'points')} to {signed(found.accuracy.high, 'points')})"
            console.print(f"{name}: {found.fixed} fixed, {found.broken} broken, {points} {ends}", markup=False)
    if told.control is not None:
        console.print(f"Random rows fixed {told.control_fixed} of these answers.", markup=False)
    for note in (LOST, *told.notes):
        console.print(f"Note: {note}", markup=False, soft_wrap=True)
