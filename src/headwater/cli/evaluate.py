"""`headwater evaluate`: which method should I believe, on this run?"""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.app import BEGUN
from headwater.cli.console import answers, asides, print_json
from headwater.cli.options import Flag, Given, Json, examples, flags_of, takes
from headwater.cli.places import COLUMN_FLAGS, PLAIN_FLAGS, RunPlace, columns_of, open_run
from headwater.errors import UsageError
from headwater.evaluation.columns import METRICS
from headwater.evaluation.evaluation import HTML
from headwater.evaluation.settings import EvaluateSettings

if TYPE_CHECKING:
    from headwater import Corpus, Run

_PANEL = "How to measure"
_GRID = Flag(
    "grid", str, f"{EvaluateSettings.__dataclass_fields__['grid'].metadata['help']}", None, _PANEL, metavar="K,K,..."
)
_SETTINGS = [*flags_of(EvaluateSettings, skip=("grid",), panel=_PANEL), _GRID]
_FILE = [
    Flag(f"query_{flag.name}", str, flag.help, panel="Columns of FILE, if not called as in training", metavar="NAME")
    for flag in COLUMN_FLAGS[:3]
]

grading = partial(typer.Option, rich_help_panel="What to grade")
app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater evaluate runs/first --methods tracin-we,logra --budget 10m --out graded",
        "headwater evaluate runs/first --methods tracin-we,tracin/layers=quarter:2 --metrics lds,deletion "
        "--queries test.jsonl --retrains 1500 --out graded",
        "headwater evaluate runs/first --scores theirs=S.npy --queries test.jsonl --budget 1h --out graded",
    )
)
@takes(settings=_SETTINGS, columns=_FILE, plain=PLAIN_FLAGS)
def evaluate(
    context: typer.Context,
    run: RunPlace,
    *,
    methods: Annotated[
        list[str] | None,
        grading(
            metavar="NAME,...",
            help="Methods, with options as tracin/layers=quarter:2 or logra/damping=0.01 (see `headwater methods`). "
            "[dim]\\[default: tracin-we][/dim]",
            show_default=False,
        ),
    ] = None,
    scores: Annotated[
        list[str] | None,
        grading(
            metavar="NAME=FILE.npy",
            help="Grade scores of another tool: \\[queries, rows], positive for a row that helped. Repeat for several.",
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        grading(
            metavar="NAME,...",
            help=f"{', '.join(metric.name for metric in METRICS)}. "
            "[dim]\\[default: lds and hubness; with --noise-column those of wrong labels too][/dim]",
            show_default=False,
        ),
    ] = None,
    queries: Annotated[
        str,
        grading(metavar="FILE|COUNT", help="Labelled texts, or how many to draw of the run's evaluation rows."),
    ] = "20",
    other: Annotated[
        list[Path] | None,
        grading(metavar="RUN", help="The same training with another seed, for stability. Repeat for several."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Stop within this time (90s, 10m, 1h30m), with less retraining if need be."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where table, page and retrainings go.", show_default=False)],
    settings: Given,
    columns: Given,
    plain: Given,
    as_json: Json = False,
) -> None:
    """Grade methods of attribution by retraining: which should I believe, on this run?

    All methods are graded on the same queries and the same retrainings; random scores and the lexical baselines stand
    beside them, and beside every LDS the highest that the noise of retraining lets anyone reach. What it costs is said
    first. DIR gets the table (evaluation.csv, evaluation.json), a page with plots (evaluation.html), and the
    retrainings, so that the same command goes on where it was stopped, and another may use them again.
    """
    from headwater.evaluation.evaluate import evaluate as grade
    from headwater.evaluation.terminal import render_terminal

    opened = open_run(run, plain)
    made = grade(
        opened,
        _listed(methods) or ["tracin-we"],
        _listed(metrics) or None,
        _queries(opened, queries, columns),
        out=out,
        budget=budget,
        scores=_named(scores or []),
        others=[open_run(place, {}) for place in other or []],
        begun=context.meta.get(BEGUN),
        command=shlex.join(["headwater", *sys.argv[1:]]),
        **_told(settings),
    )
    if as_json:
        print_json(made.to_dict())
        return
    render_terminal(made, answers())
    asides().print(f"Wrote {out / HTML}.", markup=False, soft_wrap=True)


def _listed(given: list[str] | None) -> list[str]:
    return [name.strip() for part in given or [] for name in part.split(",") if name.strip()]


def _named(given: list[str]) -> dict[str, Any]:
    """Read NAME=FILE. Raises UsageError."""
    found: dict[str, Any] = {}
    for part in given:
        name, equals, path = part.partition("=")
        if not equals or not name.strip() or not path:
            raise UsageError(f"--scores {part}: write it as NAME=FILE.npy.")
        if name.strip() in found:
            raise UsageError(f"--scores: the name {name.strip()!r} is given twice.")
        found[name.strip()] = Path(path)
    return found


def _queries(run: Run, given: str, columns: Given) -> Corpus | int:
    """A number draws so many queries; anything else is a file."""
    from headwater.runs import Corpus

    if given.isdecimal() and not Path(given).exists():
        return int(given)
    named = columns_of({name.removeprefix("query_"): value for name, value in columns.items()}, run.corpus.columns)
    return Corpus.read(given, replace(named or run.corpus.columns, id=None))


def _told(settings: Given) -> dict[str, Any]:
    """Make settings of the options. Raises UsageError for a grid that is no list of numbers."""
    told = dict(settings)
    if "grid" in told:
        parts = [part.strip() for part in str(told["grid"]).split(",")]
        if not all(part.isdecimal() for part in parts):
            raise UsageError(f"--grid {told['grid']}: write it as 10,20,50.")
        told["grid"] = tuple(int(part) for part in parts)
    return told
