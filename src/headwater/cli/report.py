"""`headwater report`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from headwater.cli.console import answers, print_json, size
from headwater.cli.methods import MethodName, chosen_method, method_flags
from headwater.cli.options import Given, Json, examples, takes
from headwater.cli.places import QUERY_FLAGS, Places, labelled, open_indexes
from headwater.cli.projection import layer_pattern

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater report runs/first",
        "headwater report runs/first --queries test.jsonl --limit 20 --out mistakes.html",
        "headwater report runs/first --which all --method tracin-we --normalize train --hide-training-text",
    )
)
@takes(options=method_flags(), plain=QUERY_FLAGS)
def report(
    places: Places,
    *,
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Texts with labels, columns called as in training; if not given, the run's own evaluation rows.",
        ),
    ] = None,
    which: Annotated[
        Literal["wrong", "all"],
        typer.Option(help="Explain wrong predictions, or any. A language model has none that are wrong: any."),
    ] = "wrong",
    explain: Annotated[
        Literal["said", "label"], typer.Option(help="Explain what the model said, or the label it should have said.")
    ] = "said",
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, metavar="N", help="Explain so many, the highest loss first.")
    ] = 50,
    k: Annotated[int, typer.Option("--top", "-k", min=1, metavar="N", help="So many rows on each side.")] = 5,
    hide_training_text: Annotated[
        bool, typer.Option("--hide-training-text", metavar="", help="Show rows by number, without their texts.")
    ] = False,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="Where to write the page.")] = Path("report.html"),
    method: MethodName = "tracin-we",
    options: Given,
    plain: Given,
    as_json: Json = False,
) -> None:
    """Write a page about a model's mistakes, and what taught it each of them.

    It begins with how many there are, and which labels are taken for which. The page is one file that needs no
    network, and may be mailed, printed and archived.
    """
    chosen = chosen_method(method, options)
    index = open_indexes(places, plain, chosen, layer_pattern(chosen.make_options(**options)))
    from headwater.attribution.overview import survey

    found = survey(index.run, labelled(index.run, queries, plain))
    rows = found.first(limit, which)
    asked = found.corpus.take(rows or [0])  # of no rows the page says nothing but what made it
    own = explain == "label" or found.predictions is None
    labels = [example.label for example in asked] if own and asked.columns.label is not None else None
    answer = index.query(asked, labels, k, method=method, **options)
    overview = found.to_dict(rows, which)
    command = shlex.join(["headwater", *sys.argv[1:]])
    title = f"What taught {index.run.folder.name}{' its mistakes' if which == 'wrong' and found.predictions else ''}"
    answer[: len(rows)].save_html(
        out, title=title, hide_training_text=hide_training_text, overview=overview, command=command
    )
    told = {"out": str(out), "bytes": out.stat().st_size, **overview}
    if as_json:
        print_json(told)
        return
    console = answers()
    if found.predictions is not None:
        console.print(
            f"{found.corpus.name}: {len(found.corpus):,} rows, accuracy {found.predictions.accuracy:.1%}, "
            f"{found.wrong:,} wrong.", markup=False, soft_wrap=True
        )  # fmt: skip
    console.print(f"Wrote {out}: {len(rows):,} explained, {size(told['bytes'])}.", markup=False, soft_wrap=True)
