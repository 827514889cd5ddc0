"""`headwater demo`: the story of `headwater.demo.story`, told chapter by chapter."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.rule import Rule

from headwater.attribution.numerals import plural
from headwater.attribution.render import render_page
from headwater.attribution.terminal import render_terminal, trial_panel
from headwater.attribution.trial import trial_view
from headwater.cli.console import answers, duration, print_json, size
from headwater.cli.options import Given, Json, examples, flags_of, takes
from headwater.demo.story import (
    Chapter,
    DemoSettings,
    Explained,
    Indexed,
    Prepared,
    Proved,
    Suspected,
    Trained,
    run_demo,
)
from headwater.files import write_text
from headwater.remedies.removal import Arm, Comparison, RemovalTrial

_SHOWN = 3  # rows a side of the one explanation that is printed; the report has all

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog=examples("headwater demo", "headwater demo --out /tmp/demo --seed 1"))
@takes(settings=flags_of(DemoSettings))
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the run, its index and the report.")] = Path(
        "demo-run"
    ),
    *,
    settings: Given,
    as_json: Json = False,
) -> None:
    """See it work on real data: train, explain, repair, retrain, compare.

    Fine-tunes MiniLM on 2,000 text messages, some of whose labels are flipped on purpose; explains what it gets
    wrong; removes the rows that speak most against clean ones; trains again, and says what came of it, whatever it
    is. Needs two wheels, which `make demo` installs, and some minutes on two cores.
    """
    chosen = DemoSettings(**settings)
    console = answers()
    story = run_demo(out, chosen, tell=lambda chapter: None if as_json else show_chapter(console, chapter))
    trial = drawn(story.proved.trial, story.suspected, len(story.prepared.data.train))
    told = [f"--{name.replace('_', '-')} {value}" for name, value in settings.items()]
    command = " ".join(["headwater demo", f"--out {out}", *told])
    page = render_page(
        story.explained.answers.to_dict(), title="Headwater demo", trial=trial, command=command, k=chosen.rows
    )
    write_text(story.explained.report, page)
    if as_json:
        print_json(story.to_dict())
        return
    console.print(trial_panel(trial_view(trial)))
    console.print(f"\nAll in {duration(story.seconds)}.")
    console.print(f"Every explanation, in a browser: {story.explained.report}", markup=False, soft_wrap=True)
    console.print(f'Ask it something: headwater query {out / "run"} --text "..."', markup=False, soft_wrap=True)


def show_chapter(console: Console, chapter: Chapter) -> None:
    """Print what a chapter found, as soon as it is known."""
    if isinstance(chapter, Prepared):
        _head(console, 1, "Data")
        data = chapter.data
        console.print(
            f"{len(data.train):,} text messages to train on, and [bold]{len(data.planted.rows):,} of their labels "
            f"flipped[/bold] on purpose; {len(data.validation):,} clean ones to check with, {len(data.test):,} to test."
        )
    elif isinstance(chapter, Trained):
        _head(console, 2, "Train", chapter.seconds)
        test, wrong = chapter.test, int((~chapter.test.correct).sum())
        console.print(
            f"The model gets [bold]{test.accuracy:.1%}[/bold] of {len(test):,} test messages right, "
            f"[bold]{wrong:,} wrong[/bold]."
        )
    elif isinstance(chapter, Indexed):
        _head(console, 3, "Index", chapter.seconds)
        points = plural(len(chapter.index.checkpoints), "checkpoint")
        console.print(f"What every row taught, word by word, at {points}: {size(chapter.index.bytes)}.")
    elif isinstance(chapter, Explained):
        _head(console, 4, "Why was it wrong?", chapter.seconds)
        console.print(f"{plural(len(chapter.answers), 'prediction')} explained; the first of them:\n")
        render_terminal(chapter.answers[:1].to_dict(), console, k=_SHOWN)
    elif isinstance(chapter, Suspected):
        _head(console, 5, "Which rows taught it?", chapter.seconds)
        console.print(
            f"Of the {len(chapter.worst):,} rows that push most against the clean messages, "
            f"[bold]{chapter.found:,} are planted flips[/bold] (of {chapter.planted:,} in all; "
            f"{chapter.expected:.0f} would be found by chance)."
        )
    elif isinstance(chapter, Proved):
        _head(console, 6, "Does removing them help?", chapter.seconds)


def _head(console: Console, number: int, title: str, seconds: float | None = None) -> None:
    took = "" if seconds is None else f" [dim]{duration(seconds)}[/dim]"
    console.print()
    console.print(Rule(f"[bold]{number}  {title}[/bold]{took}", align="left", style="dim"))


def drawn(trial: RemovalTrial, suspected: Suspected, rows: int) -> dict[str, Any]:
    """Return a trial as `headwater.attribution.trial` draws it."""
    return {
        "removed": len(suspected.worst),
        "planted": suspected.planted,
        "planted_found": suspected.found,
        "planted_by_chance": suspected.expected,
        "arms": [
            {"name": arm.name, "accuracy": list(arm.accuracies), "rows": rows - len(arm.removed)} for arm in trial.arms
        ],
        "queries": [
            {
                "text": query.text,
                "label": query.label,
                **{name: _state(arm, place) for name, arm in zip(_STATES, trial.arms, strict=True)},
            }
            for place, query in enumerate(trial.untouched.queries)
        ],
        "verdict": verdict(trial, len(suspected.worst)),
    }


_STATES = ("before", "repaired", "random")


def _state(arm: Arm, place: int) -> dict[str, Any]:
    query = arm.queries[place]
    (said, _), *_ = Counter(query.predicted).most_common(1)
    return {"predicted": said, "probability": query.probability}


def verdict(trial: RemovalTrial, removed: int) -> str:
    """Return what happened, in a sentence that says on what it rests."""
    before = _compared(trial.against_untouched, "the untouched training")
    chance = _compared(trial.against_random, "removing as many random rows")
    return f"Removing {plural(removed, 'row')}: {trial.verdict}. Against {before}; against {chance}."


def _compared(comparison: Comparison, other: str) -> str:
    p = f"p = {comparison.p:.2g}" if comparison.p >= 1e-4 else "p < 0.0001"
    return f"{other} {comparison.gained:,} test rows turned right and {comparison.lost:,} wrong ({p})"
