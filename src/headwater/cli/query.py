"""`headwater query`."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headwater.attribution.where import Where
from headwater.cli.answer import hide_text, show_answer
from headwater.cli.console import asides, print_json
from headwater.cli.methods import MethodName, chosen_method, method_flags
from headwater.cli.options import Given, Json, examples, takes
from headwater.cli.places import QUERY_FLAGS, Places, open_indexes, read_queries
from headwater.cli.projection import layer_pattern
from headwater.errors import UsageError

if TYPE_CHECKING:
    from headwater import Corpus, Index

asking = partial(typer.Option, rich_help_panel="What to explain")
showing = partial(typer.Option, rich_help_panel="Which rows to show")
on_cluster = partial(typer.Option, rich_help_panel="Many machines")

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        'headwater query runs/first --text "win a free phone" --label ham',
        "headwater query runs/first --queries wrong.jsonl -k 5 --html why.html",
        'headwater query runs/first --text "win a free phone" --method logra --damping 0.01',
        "headwater query runs/seed-0 runs/seed-1 --queries wrong.csv --json > why.json",
        "headwater query /shared/index --queries wrong.csv --engine ray --address auto --holders 16 --html why.html",
    )
)
@takes(options=method_flags(), plain=QUERY_FLAGS)
def query(
    places: Places,
    *,
    text: Annotated[str | None, asking(metavar="TEXT", help="A text whose prediction is to be explained.")] = None,
    text_pair: Annotated[str | None, asking(metavar="TEXT", help="Its second text, where rows are pairs.")] = None,
    label: Annotated[
        str | None, asking(metavar="LABEL", help="Explain this label of it; if not given, what the model says.")
    ] = None,
    queries: Annotated[
        str | None,
        asking(
            metavar="FILE",
            help="Many texts, columns called as in training. Their labels are explained, if there are any.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, asking(min=1, metavar="N", help="Of a language model's own answer, explain at most N tokens.")
    ] = 32,
    predicted: Annotated[
        bool, asking("--predicted", metavar="", help="Explain what the model says, whatever FILE's labels.")
    ] = False,
    k: Annotated[int, showing("--top", "-k", min=1, metavar="N", help="So many rows on each side.")] = 10,
    where: Annotated[
        list[str] | None,
        showing(
            metavar="COLUMN=VALUE",
            help="Show only rows with this value. Repeat a column for either value, another column for both.",
        ),
    ] = None,
    collapse: Annotated[
        bool, showing("--collapse", metavar="", help="Show rows of equal text and label once.")
    ] = False,
    hide_training_text: Annotated[
        bool, showing("--hide-training-text", metavar="", help="Show rows by number, without their texts.")
    ] = False,
    method: MethodName = "tracin-we",
    search: Annotated[
        Literal["auto", "full", "pruned"],
        typer.Option(
            help="Score all rows, or find the same rows by reading few of their vectors (TracIn-WE); auto: what reads "
            "fewer bytes.",
            rich_help_panel="Method",
        ),
    ] = "auto",
    engine: Annotated[
        Literal["local", "ray"],
        on_cluster(help="Who searches: this process, or a Ray cluster, whose nodes see the index at the same path."),
    ] = "local",
    address: Annotated[
        str | None,
        on_cluster(metavar="HOST:PORT", help="Of the Ray cluster, or 'auto'; if not given, Ray starts here."),
    ] = None,
    holders: Annotated[
        int, on_cluster(min=1, metavar="N", help="ray: spread the rows over so many processes of the cluster.")
    ] = 2,
    options: Given,
    plain: Given,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page to read in a browser.")] = None,
    as_json: Json = False,
) -> None:
    """Explain predictions: the training rows, and the words in them, behind each.

    Proponents pushed the model toward the label that is explained, opponents away from it.
    """
    if engine == "local" and address is not None:
        raise UsageError("--address is that of a Ray cluster: say --engine ray too.")
    _check_asked(text=text, text_pair=text_pair, label=label, queries=queries, predicted=predicted)
    chosen = chosen_method(method, options)
    index = open_indexes(places, plain, chosen, layer_pattern(chosen.make_options(**options)))
    if queries is None:
        corpus, labels = _one(index, str(text), text_pair), None if label is None else [label]
    else:
        corpus, labels = read_queries(index, {**plain, "queries": queries}, predicted=predicted)
    shown = _where(where or [], index, collapse)
    with nullcontext(index) if engine == "local" else index.on_ray(address, holders=holders) as asked:
        found = asked.query(
            corpus, labels, k, shown, method=method, search=search, max_new_tokens=max_new_tokens, **options
        )
    if html is not None:
        found.save_html(html, hide_training_text=hide_training_text, command=shlex.join(["headwater", *sys.argv[1:]]))
        asides().print(f"Wrote {html}.", markup=False, soft_wrap=True)
    answer = found.to_dict()
    if as_json:
        print_json(hide_text(answer) if hide_training_text else answer)
    elif html is None:
        show_answer(answer, hide_training_text=hide_training_text)


def _check_asked(
    *, text: str | None, text_pair: str | None, label: str | None, queries: str | None, predicted: bool
) -> None:
    if (text is None) == (queries is None):
        raise UsageError('say what to explain: either --text "..." or --queries FILE.')
    if queries is not None and (text_pair is not None or label is not None):
        raise UsageError("--label and --text-pair go with --text; a file of queries has columns for them.")
    if predicted and label is not None:
        raise UsageError("--label and --predicted contradict each other: leave one out.")


def _one(index: Index, text: str, text_pair: str | None) -> Corpus:
    """Make a corpus of the one text. Raises UsageError where a second text is missing or not wanted."""
    from headwater.runs import Columns, Corpus

    wants = index.run.corpus.columns.text_pair is not None
    if wants and text_pair is None:
        raise UsageError("the rows of this run are pairs: give the second text with --text-pair.")
    if text_pair is not None and not wants:
        raise UsageError("the rows of this run are single texts: leave --text-pair out.")
    row = {"--text": text, **({} if text_pair is None else {"--text-pair": text_pair})}
    return Corpus.read([row], Columns("--text", "--text-pair" if wants else None, None), name="the query")


def _where(conditions: list[str], index: Index, collapse: bool) -> Where:
    """Read COLUMN=VALUE conditions; several values of a column mean any of them."""
    wanted: dict[str, list[Any]] = {}
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals or not column:
            raise UsageError(f"--where {condition}: write it as COLUMN=VALUE.")
        if column == "label" and column not in index.corpus.table.column_names:
            column = str(index.corpus.columns.label)
        wanted.setdefault(column, []).append(value)
    return Where(columns=wanted, collapse=collapse)
