"""The answer of the comparison in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headwater.evaluation.first_vs_last.study import Study
from headwater.evaluation.first_vs_last.tables import answers, spelled_interval, tallies
from headwater.evaluation.numbers import duration, number


def render_terminal(study: Study, console: Console) -> None:
    """Draw, metric by metric, what first, last and all layers reach, and which of first and last is better."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("metric", "embeddings", "method"):
        table.add_column(name, overflow="fold")
    for name in ("first", "last", "all", "first - last"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("better layer")
    found = answers(study)
    for one in found:
        better = one.verdict in ("first", "last")
        values = (number(each.value) for each in (one.first, one.last, one.whole))
        table.add_row(
            f"{one.measured.metric} {'↑' if one.measured.better == 'higher' else '↓'}",
            one.measured.embeddings,
            Text(one.method),
            *values,
            Text(spelled_interval(one.difference)),
            Text(one.verdict, style="bold" if better else "dim"),
        )
    console.print(table)
    console.print()
    for tally in tallies(found):
        console.print(Text(f"{tally.title} {tally.sentence}."))
    for each in study.trainings:
        console.print(
            Text(f"Word embeddings {each.embeddings}: accuracy {each.accuracy:.1%}, {each.retrains:,} retrainings.",
                 style="dim")
        )  # fmt: skip
    told = f"{study.queries:,} queries, {study.tests:,} other test rows, {duration(study.seconds)}; 95% intervals."
    console.print(Text(told, style="dim"))
