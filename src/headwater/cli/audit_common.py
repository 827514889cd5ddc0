"""What all audits share on the command line: their options, how RUN is opened, and what is written and printed."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from headwater.cli.app import BEGUN
from headwater.cli.console import answers, asides, print_json
from headwater.cli.places import open_indexes, open_run
from headwater.errors import StoreError, UsageError

if TYPE_CHECKING:
    from headwater import Corpus, Index, Run
    from headwater.audit.worklist import Worklist

_SHOWN = 20  # suspects on the terminal
_TEXT = 48  # characters of their texts
_PROOF = "Proof"

Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where to write worklist and plan. [dim]\\[default: RUN/audit/WHAT][/dim]"),
]
Budget = Annotated[
    str, typer.Option(metavar="TIME", help="Stop within this time (90s, 30m, 2h): cheap detectors first, then parts.")
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Draws the held-out rows, parts and folds.")]
Top = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Suggest just so many rows. [dim]\\[default: as many as are counted][/dim]"),
]
AsCsv = Annotated[bool, typer.Option("--csv", metavar="", help="Print the worklist as CSV on stdout.")]
Prove = Annotated[
    bool,
    typer.Option(
        "--prove",
        metavar="",
        help="Apply all suggestions to a copy, retrain, and compare: as `headwater fix --retrain` does.",
        rich_help_panel=_PROOF,
    ),
]
Seeds = Annotated[int, typer.Option(metavar="N", min=1, help="Train each arm so often.", rich_help_panel=_PROOF)]

BUDGET = "30m"
SEEDS = 5


@dataclass(frozen=True)
class Audited:
    """The RUN of an audit, opened; the time that is left of its budget counts from when the command was called."""

    what: str
    run: Run
    index: Index | None
    """None where nothing is indexed."""
    out: Path
    seconds: float
    began: float

    @property
    def left(self) -> float:
        """Seconds of the budget that are left, 0 at least."""
        return max(self.seconds - (time.monotonic() - self.began), 0.0)


def open_audited(context: typer.Context, what: str, out: Path | None, budget: str, *, prints: int = 0) -> Audited:
    """Open the RUN that stands before WHAT, with its index if there is one.

    `prints` counts --json and --csv: both at once are a mistake. Raises UsageError, RunError, StoreError.
    """
    from headwater.evaluation.settings import seconds_of

    if prints > 1:
        raise UsageError("--json and --csv both print on stdout: give one of them. DIR gets both files.")
    folder: Path = context.obj
    seconds = seconds_of(budget)
    run, index = _opened(folder)
    out = (folder / "audit" / what if out is None else out).resolve()
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file. Give a folder: --out DIR.")
    return Audited(what, run, index, out, seconds, context.meta.get(BEGUN, time.monotonic()))


def _opened(folder: Path) -> tuple[Run, Index | None]:
    from headwater.attribution.members import is_indexed

    if is_indexed(folder / "index"):
        index = open_indexes([folder], {})
        return index.run, index
    if (folder / "manifest.json").is_file():
        raise StoreError(f"{folder}: is an index. Give the folder of its run.")
    return open_run(folder, {}), None


def finish(
    audited: Audited,
    worklist: Worklist,
    *,
    seed: int,
    as_json: bool,
    as_csv: bool,
    prove: bool = False,
    seeds: int = SEEDS,
    test: Corpus | None = None,
    plot: Any = None,
) -> None:
    """Write worklist.json, .csv, .html and plan.jsonl; print the list; prove the plan on `test` if asked for."""
    from headwater.audit.page import render_worklist
    from headwater.files import write_json, write_text
    from headwater.remedies.decisions import kept_rows

    worklist = worklist.without(kept_rows(audited.run))

    command = shlex.join(["headwater", *sys.argv[1:]])
    plan = worklist.plan(audited.run, command, seed)
    facts = worklist.to_dict()
    plan.write(audited.out / "plan.jsonl")
    write_json(audited.out / "worklist.json", facts)
    write_text(audited.out / "worklist.csv", worklist.csv())
    page = render_worklist(worklist, run=audited.run.name, command=command, plot=plot)
    write_text(audited.out / "worklist.html", page)
    proof = _proof(audited, worklist, seed, seeds, test) if prove and worklist.suspects else None
    if as_json:
        print_json({"out": str(audited.out), **facts, "proof": None if proof is None else proof.to_dict()})
    elif as_csv:
        sys.stdout.write(worklist.csv())
    else:
        show_worklist(worklist)
        if proof is not None:
            from headwater.cli.fix import show_proof

            show_proof(proof)
        _say_next(audited, worklist, proved=proof is not None)


def _proof(audited: Audited, worklist: Worklist, seed: int, seeds: int, test: Corpus | None) -> Any:
    """Hand the plan to `headwater fix`: all suggestions, in OUT/repaired."""
    from headwater.cli.fix import proved
    from headwater.errors import DataError
    from headwater.remedies.fix import fix
    from headwater.remedies.plan import read_plan

    if test is None or not len(test):
        raise DataError(
            f"{audited.run.folder}: no held-out rows are left to prove anything on. Train with --eval FILE."
        )
    audited.run.need_recipe()
    plan = read_plan(audited.out / "plan.jsonl")
    made = fix(audited.run, plan, audited.out / "repaired", accept=[f"top:{len(worklist.suspects)}"])
    return proved(made, test, seeds, time.monotonic(), audited.left)


def show_worklist(worklist: Worklist) -> None:
    """Print what was found, the first suspects, and what it cost."""
    from headwater.audit.page import suggestion, told_cost

    console = answers()
    console.print(Text(worklist.summary, "bold"))
    console.print(worklist.how_sure, markup=False)
    if worklist.suspects:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for name in ("#", "row"):
            table.add_column(name, justify="right")
        table.add_column("now", no_wrap=True, max_width=14)
        table.add_column("suggestion", no_wrap=True, max_width=22)
        table.add_column("confidence", justify="right")
        table.add_column("text", overflow="ellipsis", max_width=_TEXT)
        for rank, suspect in enumerate(worklist.suspects[:_SHOWN], 1):
            row = worklist.corpus[suspect.row]
            sure = "-" if suspect.confidence is None else f"{suspect.confidence:.2f}"
            now = "" if row.label is None else str(row.label)
            text = " ".join(str(row.text).split())[:_TEXT]
            table.add_row(*map(Text, (str(rank), f"{suspect.row:,}", now, suggestion(suspect), sure, text)))
        console.print(table)
        if len(worklist.suspects) > _SHOWN:
            console.print(f"... and {len(worklist.suspects) - _SHOWN:,} more.", style="dim")
    for note in worklist.notes:
        console.print(f"Note: {note}", markup=False)
    console.print(told_cost(worklist.cost) + ".", style="dim")


def _say_next(audited: Audited, worklist: Worklist, *, proved: bool) -> None:
    wrote = "worklist.html, worklist.json, worklist.csv and plan.jsonl"
    asides().print(f"Wrote {wrote} into {audited.out}.", markup=False, soft_wrap=True)
    if worklist.suspects and not proved:
        run, plan = shlex.quote(str(audited.run.folder)), shlex.quote(str(audited.out / "plan.jsonl"))
        command = f"headwater fix {run} {plan} --accept top:{len(worklist.suspects)} --out RUN2 --retrain"
        asides().print(f"Next: {command}", markup=False, soft_wrap=True)
