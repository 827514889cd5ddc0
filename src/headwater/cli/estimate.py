"""`headwater estimate`, and the options that it shares with `headwater index`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from headwater.attribution.estimate import Estimate, available_memory, check_fits, estimate_index, free_disk
from headwater.cli.console import answers, duration, print_json, print_note, size
from headwater.cli.options import Given, Json, examples, flags_of, takes
from headwater.cli.places import PLAIN_FLAGS, RunPlace, open_run
from headwater.errors import StoreError, UsageError
from headwater.evaluation.settings import EvaluateSettings

if TYPE_CHECKING:
    from headwater import Checkpoint, Run

Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder or s3:// URL of the index, if not RUN/index.")]
Dtypes = Annotated[
    Literal["float16", "float32", "int8", "int4"],
    typer.Option(
        help="How gradients are stored. float16 takes half of float32; its error of a score is about 2e-4. int8, for "
        "token gradients, takes a quarter: each number to 1/127 of its vector's largest. int4, likewise, "
        "takes an eighth: each to one of 16 steps, so that vectors are off by a tenth and the ends of a ranking stay."
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
        "squared norms (0.999). The ends of a ranking stay; weak rows lose theirs: such an index does not normalize.",
    ),
]
Checkpoints = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="'last', or a name or step, repeated for several; all if not given."),
]

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


asking = partial(typer.Option, rich_help_panel="A batch of queries")
grading = partial(typer.Option, rich_help_panel="An evaluation")
_SETTINGS = ("subsets", "protocol", "leave_out", "seeds", "draws", "retrains", "processes", "baselines", "arithmetic")


@app.command(
    epilog=examples(
        "headwater estimate runs/first",
        "headwater estimate runs/first --max-words 20 --json",
        "headwater estimate runs/first --queries 500 --method logra",
        "headwater estimate runs/first --evaluate --methods tracin-we,logra --metrics lds,deletion --out graded",
    )
)
@takes(plain=PLAIN_FLAGS, settings=flags_of(EvaluateSettings, only=_SETTINGS, panel="An evaluation"))
def estimate(
    run: RunPlace,
    *,
    queries: Annotated[
        int | None,
        asking(min=1, metavar="N", help="What so many queries will take, of the index that is there."),
    ] = None,
    method: Annotated[str, asking(metavar="NAME", help="By which method.")] = "tracin-we",
    evaluate: Annotated[
        bool, grading("--evaluate", metavar="", help="What `headwater evaluate` will take, with N queries or 20.")
    ] = False,
    methods: Annotated[
        list[str] | None, grading(metavar="NAME,...", help="Methods to grade.", show_default="tracin-we")
    ] = None,
    metrics: Annotated[
        list[str] | None, grading(metavar="NAME,...", help="Metrics to grade by.", show_default="lds and hubness")
    ] = None,
    settings: Given,
    plain: Given,
    out: Out = None,
    dtype: Dtypes = "float16",
    max_words: MaxWords = None,
    energy: Energy = None,
    checkpoints: Checkpoints = None,
    as_json: Json = False,
) -> None:
    """Say what an index will cost: time, disk, memory. Or a batch of queries, or an evaluation.

    From a short probe: a few dozen rows, short and long ones, at one checkpoint. What is built already costs nothing.
    A batch of queries is probed by asking a few; an evaluation by small indexes and a retraining or three, which are
    kept if its folder is named by --out.
    """
    for name, given in (("methods", methods), ("metrics", metrics), *settings.items()):
        if given is not None and not evaluate:
            raise UsageError(f"--{name.replace('_', '-')} goes with --evaluate.")
    opened = open_run(run, plain)
    if evaluate:
        _show_evaluation(opened, _listed(methods), _listed(metrics), queries, out, settings, as_json)
        return
    folder = out or opened.folder / "index"
    if queries is not None:
        _show_queries(opened, folder, queries, method, as_json)
        return
    chosen = chosen_checkpoints(opened, checkpoints)
    found = estimate_index(opened, folder, checkpoints=chosen, dtype=dtype, max_words=max_words, energy=energy)
    problem = None
    try:
        check_fits(found, folder)
    except StoreError as error:
        problem = str(error)
    if as_json:
        room = {"free_disk": free_disk(folder), "available_memory": available_memory()}
        print_json({"of": "index", **found.to_dict(), **room, "fits": problem is None, "problem": problem})
        return
    show_estimate(answers(), found, folder)
    if problem is not None:
        print_note(f"it does not fit. {problem}")


def _listed(given: Sequence[str] | None) -> list[str]:
    return [name.strip() for part in given or () for name in part.split(",") if name.strip()]


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


def _show_queries(run: Run, folder: Path, count: int, method: str, as_json: bool) -> None:
    from headwater.attribution.estimate_queries import estimate_queries

    found = estimate_queries(run, folder, count, method=method)
    if as_json:
        print_json({"of": "queries", **found.to_dict(), "available_memory": available_memory()})
        return
    each = f"{duration(found.first_seconds)} once, then {found.query_seconds * 1000:,.0f} ms a query"
    again = f" and {duration(found.block_seconds)} for each {found.blocks and -(-count // found.blocks):,}"
    rows = [
        ("time", f"about {duration(found.seconds)}", each + (again if found.block_seconds >= 0.05 else "")),
        ("index", size(found.index_bytes), "stored"),
        ("memory", size(found.memory_bytes), _of_available()),
    ]
    many = "query" if count == 1 else "queries"
    _print(f"{count:,} {many} by {found.method} (probed for {duration(found.probe_seconds)}):", rows)


def _show_evaluation(
    run: Run,
    methods: list[str],
    metrics: list[str],
    queries: int | None,
    out: Path | None,
    settings: Given,
    as_json: bool,
) -> None:
    from headwater.evaluation.estimate import estimate_evaluation

    found = estimate_evaluation(
        run, methods or ["tracin-we"], metrics or None, 20 if queries is None else queries, out=out, **settings
    )
    if as_json:
        print_json({"of": "evaluation", **found.to_dict()})
        return
    share = f"{found.processes} process{'' if found.processes == 1 else 'es'}"
    slowest = sorted(found.by_method.items(), key=lambda each: -each[1])[:3]
    rows = [
        ("time", f"about {duration(found.seconds)}", f"probed for {duration(found.probe_seconds)}"),
        (
            "indexing and scoring",
            duration(found.scoring_seconds),
            ", ".join(f"{name} {duration(took)}" for name, took in slowest),
        ),
        (
            "retraining",
            duration(found.retraining_seconds),
            f"at most {found.retrains:,} of {duration(found.a_retrain_seconds)} or less, {share}",
        ),
        ("grading", duration(found.grading_seconds), ""),
    ]
    _print("An evaluation:", rows)


def _of_available() -> str:
    memory = available_memory()
    return "" if memory is None else f"of {size(memory)} available"


def _print(title: str, rows: Sequence[tuple[str, str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    for style in ("bold", None, "dim"):
        table.add_column(style=style)
    for row in rows:
        table.add_row(*row)
    console = answers()
    console.print(title, markup=False)
    console.print(table)
