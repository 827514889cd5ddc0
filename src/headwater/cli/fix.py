"""`headwater fix`: apply a repair plan to a new corpus; retrain, and prove it."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from headwater.cli.app import BEGUN
from headwater.cli.console import answers, asides, print_json
from headwater.cli.options import Given, Json, examples, takes
from headwater.cli.places import PLAIN_FLAGS, RunPlace, open_run
from headwater.errors import DataError, UsageError

if TYPE_CHECKING:
    from headwater import Corpus, Run
    from headwater.remedies.differences import Interval
    from headwater.remedies.fix import Fix
    from headwater.remedies.proof import Proof

_PROOF = "Proof"

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater fix runs/first plan.jsonl --out runs/second",
        "headwater fix runs/first plan.jsonl --out runs/second --retrain --budget 30m",
        "headwater fix runs/first worst.jsonl --accept top:200 --out runs/second --retrain --test test.jsonl",
    )
)
@takes(plain=PLAIN_FLAGS)
def fix(
    context: typer.Context,
    run: RunPlace,
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="Repair plan (.jsonl).", show_default=False)],
    *,
    out: Annotated[Path, typer.Option(metavar="RUN2", help="New folder for the repaired corpus.", show_default=False)],
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help="Apply suggestions too: top:200, confidence:0.9 or group:NAME. Repeat for several. Without it only "
            "accepted rows count.",
        ),
    ] = None,
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain",
            help="Train RUN2 on the repaired rows, and prove the repair: with it, without it, and with the same done "
            "to random rows.",
            rich_help_panel=_PROOF,
        ),
    ] = False,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Train each arm so often.", rich_help_panel=_PROOF)
    ] = 5,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Stop within this time (90s, 30m, 2h): with fewer seeds, at need on a part of the rows.",
            rich_help_panel=_PROOF,
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Labelled rows to prove it on. [dim]\\[default: the run's evaluation rows][/dim]",
            rich_help_panel=_PROOF,
        ),
    ] = None,
    plain: Given,
    as_json: Json = False,
) -> None:
    """Apply a repair plan to a new corpus, and prove by retraining whether it helped.

    RUN stays as it is. RUN2/fix gets the repaired rows, the plan, and where both came from. With --retrain RUN2 becomes
    a run of its own, and RUN2/fix gets proof.json and a page, proof.html; the same command goes on where it was
    stopped. Test rows that the plan cites are left out of the proof.
    """
    from headwater.evaluation.settings import seconds_of
    from headwater.remedies.fix import fix as apply
    from headwater.remedies.plan import read_plan

    began = context.meta.get(BEGUN, time.monotonic())
    if not retrain and (budget is not None or test is not None):
        raise UsageError(f"{'--budget' if budget is not None else '--test'} belongs to the proof: give --retrain too.")
    seconds = None if budget is None else seconds_of(budget)
    opened = open_run(run, plain)
    repairs = read_plan(plan)
    rows = _test_rows(opened, test) if retrain else None
    if rows is not None:
        opened.need_recipe()
    made = apply(opened, repairs, out, accept=accept or [])
    facts: dict[str, Any] = {"out": str(out), "lineage": made.lineage, "trained": None, "proof": None}
    if rows is None:
        if as_json:
            print_json(facts)
        else:
            _say_change(made)
            _say_next(made, out)
        return
    if not as_json:
        _say_change(made)
    proof = proved(made, rows, seeds, began, seconds)
    if as_json:
        print_json(facts | {"trained": str(out), "proof": proof.to_dict()})
        return
    show_proof(proof)
    asides().print(f"Wrote {out / 'fix' / 'proof.html'}.", markup=False, soft_wrap=True)


def _test_rows(run: Run, test: str | None) -> Corpus:
    from dataclasses import replace

    from headwater.runs import Corpus

    if test is not None:
        base = replace(run.corpus.columns, weight=None)
        found = Corpus.read(test, replace(base, id=None))
        return Corpus(found.table, base, found.name) if base.id in found.table.column_names else found
    if run.eval_corpus is None:
        raise DataError(
            f"{run.folder}: the run kept no evaluation rows to prove anything on. Give a file: --test FILE."
        )
    return run.eval_corpus


def proved(made: Fix, rows: Corpus, seeds: int, began: float, budget: float | None) -> Proof:
    """Train the arms of a repair on RUN2's recipe, ask them about `rows`, and write proof.json and proof.html."""
    from headwater.files import write_json, write_text
    from headwater.remedies.fix import ANSWERS, PAGE, PROOF, train_repaired
    from headwater.remedies.page import render_page
    from headwater.remedies.proof import check_provable, prove

    check_provable(made.run, made.plan, made.change, rows)
    train_repaired(made)
    proof = prove(
        made.run,
        made.plan,
        made.change,
        rows,
        made.folder / ANSWERS,
        seeds=seeds,
        began=began,
        budget=budget,
        say=lambda text: asides().print(text, style="dim", soft_wrap=True),
    )
    write_json(made.folder / PROOF, proof.to_dict())
    command = shlex.join(["headwater", *sys.argv[1:]])
    write_text(made.folder / PAGE, render_page(proof, made.lineage, command=command))
    return proof


def _say_change(made: Fix) -> None:
    from headwater.remedies.page import applied

    console = answers()
    before, after = len(made.run.corpus), len(made.corpus)
    console.print(f"{applied(made.change.counts)}: {before:,} rows before, {after:,} after.".capitalize())
    for each in made.lineage["relabelled"]:
        console.print(f"  {each['from']} -> {each['to']}: {each['rows']:,}", markup=False)
    waiting = sum(repair.status == "suggested" for repair in made.plan.repairs)
    if waiting and not made.lineage["accept"]:
        left = "1 suggestion was left as it is" if waiting == 1 else f"{waiting:,} suggestions were left as they are"
        console.print(f"{left}; to apply some: --accept top:{waiting} (or confidence:0.9, group:NAME).")
    for repair in made.plan.repairs[:1] if not made.change.rows else []:
        console.print(f"Nothing was changed: {made.plan.where(repair)} is {repair.status} as {repair.action}.")


def _say_next(made: Fix, out: Path) -> None:
    from headwater.remedies.fix import CORPUS, FOLDER

    console = answers()
    console.print(f"Wrote {out / FOLDER / CORPUS}.", markup=False, soft_wrap=True)
    command = shlex.join(["headwater", *sys.argv[1:], "--retrain"])
    console.print(f"Next, train on it as before and prove it: {command}", markup=False, soft_wrap=True)
    path = shlex.quote(str(out / FOLDER / CORPUS))
    told = f"Or in your own way: headwater train --data {path} --out NEW"
    if made.corpus.columns.weight is not None:
        told += f" (the column {made.corpus.columns.weight!r} holds the weights)"
    console.print(told, markup=False, soft_wrap=True)


def show_proof(proof: Proof) -> None:
    """Print the arms, what differs, and the verdict."""
    from headwater.remedies.arms import about
    from headwater.remedies.page import signed
    from headwater.remedies.proof import sentence

    console = answers()
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("arm")
    words = proof.measure
    for name in ("rows", words.accuracy, words.loss, "repaired less it (95%)", words.fixed, words.broken):
        table.add_column(name, justify="right")
    table.add_column("repaired is")
    for arm in proof.arms:
        mean, loss = sum(arm.accuracy) / len(arm.accuracy), sum(arm.loss) / len(arm.loss)
        cells: list[str | Text] = [arm.name, f"{arm.rows:,}", f"{mean:.1%}", f"{loss:.3f}"]
        found = proof.against.get(arm.name)
        if found is None:
            cells += ["", "", "", ""]
        else:
            style = "" if found.word == "no difference shown" else "bold"
            unit = "points" if words.decides == "accuracy" else "nats"
            told = _interval(found.decisive, unit, signed)
            cells += [told, str(found.fixed), str(found.broken), Text(found.word, style)]
        table.add_row(*cells)
    console.print(table)
    for arm in proof.arms:
        console.print(f"{arm.name}: {about(arm.name, words)}.", style="dim")
    if words.decides == "loss":
        console.print(words.meaning, style="dim")
    left = f"; {proof.left_out:,} that the plan cites were left out" if proof.left_out else ""
    seeds = f"{len(proof.seeds)} seed{'s' if len(proof.seeds) > 1 else ''}"
    console.print(f"{proof.test_rows:,} test rows, {seeds}{left}.", style="dim")
    for note in proof.notes:
        console.print(f"Note: {note}", markup=False)
    console.print(Text(sentence(proof), "bold"))


def _interval(found: Interval, unit: str, signed: Any) -> str:
    return f"{signed(found.value, unit)} ({signed(found.low, unit)} to {signed(found.high, unit)})"
