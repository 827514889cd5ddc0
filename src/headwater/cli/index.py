"""`headwater index`: the estimate first, then the build."""

from __future__ import annotations

import time

import typer

from headwater.attribution.estimate import check_fits, estimate_index, is_small
from headwater.attribution.index import Index
from headwater.cli.console import answers, asides, duration, print_json, size
from headwater.cli.estimate import Checkpoints, Dtypes, MaxWords, Out, chosen_checkpoints, show_estimate
from headwater.cli.options import Given, Json, examples, takes
from headwater.cli.places import PLAIN_FLAGS, RunPlace, open_run

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater index runs/first",
        "headwater index runs/first --max-words 20 --out /big-disk/first-index",
        "headwater index my-trainer-output --data train.csv --text-column sentence --max-length 128",
    )
)
@takes(plain=PLAIN_FLAGS)
def index(
    run: RunPlace,
    *,
    plain: Given,
    out: Out = None,
    dtype: Dtypes = "float16",
    max_words: MaxWords = None,
    checkpoints: Checkpoints = None,
    as_json: Json = False,
) -> None:
    """Index a run: what every training row taught, word by word.

    One forward and one backward pass to the word embeddings for each row and checkpoint. What it will cost is
    estimated first, and what cannot fit is refused. Interrupted, it resumes where it was.
    """
    opened = open_run(run, plain)
    folder = out or opened.folder / "index"
    chosen = chosen_checkpoints(opened, checkpoints)
    estimate = None
    if not is_small(opened, chosen):
        estimate = estimate_index(opened, folder, checkpoints=chosen, dtype=dtype, max_words=max_words)
        show_estimate(asides(), estimate, folder)
        check_fits(estimate, folder)
    started = time.monotonic()
    names = [checkpoint.name for checkpoint in chosen]
    made = Index.build(opened, folder, checkpoints=names, dtype=dtype, max_words=max_words)
    seconds = time.monotonic() - started
    place = out or run / "index"
    if as_json:
        facts = {"index": str(place), "rows": len(made), "checkpoints": names, "bytes": made.bytes, "seconds": seconds}
        print_json({**facts, "estimate": None if estimate is None else estimate.to_dict()})
        return
    console = answers()
    told = f"{len(made):,} rows, {', '.join(names)}, {size(made.bytes)}, {duration(seconds)}"
    console.print(f"Indexed in {place}: {told}.", markup=False, soft_wrap=True)
    asked = run if out is None else place
    console.print(f'Next: headwater query {asked} --text "..."', markup=False, soft_wrap=True)
