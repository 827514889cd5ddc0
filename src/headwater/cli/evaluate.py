"""`headwater evaluate`: which method should I believe, on this run?"""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headwater.cli.app import BEGUN
from headwater.cli.console import answers, asides, print_json
from headwater.cli.options import Flag, Given, Json, examples, flags_of, takes
from headwater.cli.places import COLUMN_FLAGS, PLAIN_FLAGS, RunPlace, columns_of, open_run
from headwater.errors import UsageError
from headwater.evaluation.columns import METRICS
from headwater.evaluation.evaluation import HTML
from headwater.evaluation.first_vs_last.settings import PROTOCOLS, StudySettings
from headwater.evaluation.settings import EvaluateSettings

if TYPE_CHECKING:
    from headwater import Corpus, Run

_PANEL = "How to measure"
_FIRST_VS_LAST = "first-vs-last"
_COUNTS = ("grid", "words")
"""Settings that are lists of numbers, written as 10,20,50."""
_DEFAULTS: dict[str, Any] = {name: getattr(EvaluateSettings(), name) for name in _COUNTS}
_LISTS = [
    Flag(name, str, str(EvaluateSettings.__dataclass_fields__[name].metadata["help"]),
         default and ",".join(map(str, default)), _PANEL, metavar="N,N,...")
    for name, default in _DEFAULTS.items()
]  # fmt: skip
_SETTINGS = [*flags_of(EvaluateSettings, skip=_COUNTS, panel=_PANEL), *_LISTS]
_COMMON = {*EvaluateSettings.__dataclass_fields__, "methods", "protocols"}
_STUDY = flags_of(StudySettings, skip=_COMMON, panel=f"Of --preset {_FIRST_VS_LAST}")
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
        "headwater evaluate runs/first --preset first-vs-last --queries 100 --retrains 500 --out layers",
    )
)
@takes(settings=_SETTINGS, study=_STUDY, columns=_FILE, plain=PLAIN_FLAGS)
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
            "[dim]\\[default: lds and hubness; with --noise-column, --group-column, --fact-column what they allow too]"
            "[/dim]",
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
    test: Annotated[
        str | None,
        grading(
            metavar="FILE|COUNT",
            help="For filtering: labelled rows to count right answers on, or how many to draw of the run's evaluation "
            "rows. Queries among them are left out. [dim]\\[default: all others, at most 1,000][/dim]",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Stop within this time (90s, 10m, 1h30m), with less retraining if need be."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where table, page and retrainings go.", show_default=False)],
    preset: Annotated[
        Literal["first-vs-last"] | None,
        typer.Option(
            metavar="NAME",
            help=f"{_FIRST_VS_LAST}: compare the layers of the model by both papers' protocols, with word embeddings "
            f"trained and frozen. Metrics are then {', '.join(PROTOCOLS)}.",
        ),
    ] = None,
    settings: Given,
    study: Given,
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
    asked = _queries(opened, queries, columns)
    command = shlex.join(["headwater", *sys.argv[1:]])
    if preset is not None:
        _refuse(preset, scores=scores, other=other, test=test, budget=budget)
        named = {"methods": tuple(_listed(methods)), "protocols": tuple(_listed(metrics))}
        given = {**_told(settings), **study, **{name: value for name, value in named.items() if value}}
        _compare_layers(opened, asked, out, given, command, as_json)
        return
    if study:
        raise UsageError(f"--{min(study).replace('_', '-')} belongs to --preset {_FIRST_VS_LAST}.")
    made = grade(
        opened,
        _listed(methods) or ["tracin-we"],
        _listed(metrics) or None,
        asked,
        out=out,
        budget=budget,
        scores=_named(scores or []),
        others=[open_run(place, {}) for place in other or []],
        test=None if test is None else _queries(opened, test, columns),
        begun=context.meta.get(BEGUN),
        command=command,
        **_told(settings),
    )
    if as_json:
        print_json(made.to_dict())
        return
    render_terminal(made, answers())
    asides().print(f"Wrote {out / HTML}.", markup=False, soft_wrap=True)


def _compare_layers(
    run: Run, queries: Corpus | int, out: Path, given: dict[str, Any], command: str, as_json: bool
) -> None:
    from headwater.evaluation.first_vs_last.study import HTML as PAGE
    from headwater.evaluation.first_vs_last.study import first_vs_last
    from headwater.evaluation.first_vs_last.terminal import render_terminal

    made = first_vs_last(run, queries, out=out, command=command, **given)
    if as_json:
        print_json(made.to_dict())
        return
    render_terminal(made, answers())
    asides().print(f"Wrote {out / PAGE}.", markup=False, soft_wrap=True)


def _refuse(preset: str, **given: Any) -> None:
    """Raise UsageError for an option that a preset does not have."""
    for name, value in given.items():
        if value:
            raise UsageError(f"--{name} cannot be given with --preset {preset}.")


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
    """Make settings of the options. Raises UsageError for a list of numbers that is none."""
    told = dict(settings)
    for name in _COUNTS:
        if name in told:
            parts = [part.strip() for part in str(told[name]).split(",")]
            if not all(part.isdecimal() for part in parts):
                raise UsageError(f"--{name} {told[name]}: write it as 10,20,50.")
            told[name] = tuple(int(part) for part in parts)
    return told
