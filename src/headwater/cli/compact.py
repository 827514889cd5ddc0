"""`headwater compact`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from headwater.cli.console import answers, duration, print_json, size
from headwater.cli.options import Json, examples
from headwater.cli.places import index_folder, stores_in
from headwater.errors import StoreError, UsageError

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog=examples("headwater compact runs/first", "headwater compact /big-disk/first-index --json"))
def compact(
    place: Annotated[
        Path,
        typer.Argument(metavar="RUN|INDEX", help="Folder of a run or of an index.", show_default=False),
    ],
    as_json: Json = False,
) -> None:
    """Rewrite an index that has grown: full files, without rows that were changed or removed.

    Copies what is stored; no model is loaded. Needs about as much free disk space as the index takes, until it is done.
    Whoever reads the index meanwhile reads on. Killed at any moment, it leaves the index as it was or as it is to be.
    """
    from headwater.attribution.grow import compact_tokens
    from headwater.store import Store
    from headwater.store.remote import place_of

    if place_of(place)[1] is not None:
        raise UsageError(f"{place}: an index in a bucket is not compacted yet. Do it to a folder, and copy that there.")
    folder = index_folder(place)
    before = [store for store in stores_in(folder) if isinstance(store, Store)]
    if not before:
        raise StoreError(f"{folder}: no token gradients are indexed here, and what else is does not grow.")
    started = time.monotonic()
    manifest = compact_tokens(folder)
    seconds, old = time.monotonic() - started, before[0].manifest
    dead = old.rows - manifest.rows
    if as_json:
        facts = {"index": str(folder), "rows": manifest.rows, "dead_rows_dropped": dead, "files": len(manifest.files)}
        print_json({**facts, "bytes_before": old.bytes, "bytes": manifest.bytes, "seconds": seconds})
        return
    if manifest == old:
        answers().print(f"{folder}: has not grown; nothing to do.", markup=False, soft_wrap=True)
        return
    told = f"{manifest.rows:,} rows, {dead:,} dead ones dropped, {size(old.bytes)} became {size(manifest.bytes)}"
    answers().print(f"Compacted {folder}: {told}, {duration(seconds)}.", markup=False, soft_wrap=True)
