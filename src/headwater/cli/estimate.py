"""`headwater estimate`, and the options that it shares with `headwater index`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from headwater.attribution.estimate import Estimate, available_memory, check_fits, estimate_index, free_disk
from headwater.cli.console import answers, duration, print_json, print_note, size
from headwater.cli.options import Given, Json, examples, takes
from headwater.cli.places import PLAIN_FLAGS, RunPlace, open_run
from headwater.errors import StoreError

if TYPE_CHECKING:
    from headwater import Checkpoint, Run

Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the index, if not RUN/index.")]
Dtypes = Annotated[
    Literal["float16", "float32", "int8"],
    typer.Option(
        help="How gradients are stored. float16 takes half of float32; its error of a score is about 2e-4. int8, for "
        "token gradients, takes a quarter: each number to 1/127 of its vector's largest."
    ),
]
MaxWords = Annotated[
    int | None,
    typer.Option(min=1, max=254, metavar="N", help="Keep only the N strongest words of a row and checkpoint."),
]
Energy = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Keep only the strongest token gradients of each 4,096 rows and checkpoint, which hold this share of all "
        "squared norms (0.999).",
    ),
]
Checkpoints = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="'last', or a name or step, repeated for several; all if not given."),
]

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog=examples("headwater estimate runs/first", "headwater estimate runs/first --max-words 20 --json"))
@takes(plain=PLAIN_FLAGS)
def estimate(
    run: RunPlace,
    *,
    plain: Given,
    out: Out = None,
    dtype: Dtypes = "float16",
    max_words: MaxWords = None,
    energy: Energy = None,
    checkpoints: Checkpoints = None,
    as_json: Json = False,
) -> None:
    """Say what an index will cost: time, disk, memory.

    From a short probe: a few dozen rows, short and long ones, at one checkpoint. What is built already costs nothing.
    """
    opened = open_run(run, plain)
    folder = out or opened.folder / "index"
    chosen = chosen_checkpoints(opened, checkpoints)
    found = estimate_index(opened, folder, checkpoints=chosen, dtype=dtype, max_words=max_words, energy=energy)
    problem = None
    try:
        check_fits(found, folder)
    except StoreError as error:
        problem = str(error)
    if as_json:
        room = {"free_disk": free_disk(folder), "available_memory": available_memory()}
        print_json({**found.to_dict(), **room, "fits": problem is None, "problem": problem})
        return
    show_estimate(answers(), found, folder)
    if problem is not None:
        print_note(f"it does not fit. {problem}")


def chosen_checkpoints(run: Run, names: Sequence[str] | None) -> tuple[Checkpoint, ...]:
    """Return the checkpoints that `--checkpoints` names. Raises UsageError."""
    if not names or list(names) == ["all"]:
        return run.select("all")
    return run.select("last") if list(names) == ["last"] else run.select(list(names))


def show_estimate(console: Console, estimate: Estimate, folder: Path) -> None:
    """Print an estimate beside what there is."""
    memory = available_memory()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    table.add_column(style="dim")
    kept = f", {size(estimate.built_bytes)} are there already" if estimate.built_bytes else ""
    table.add_row("time", f"about {duration(estimate.seconds)}", f"probed for {duration(estimate.probe_seconds)}")
    table.add_row("disk", size(estimate.disk_bytes), f"of {size(free_disk(folder))} free{kept}")
    table.add_row("memory", size(estimate.memory_bytes), "" if memory is None else f"of {size(memory)} available")
    points = f"{estimate.checkpoints} checkpoint{'' if estimate.checkpoints == 1 else 's'}"
    console.print(f"An index of {estimate.rows:,} rows at {points}:", markup=False)
    console.print(table)
