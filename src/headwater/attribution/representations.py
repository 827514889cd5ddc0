"""Representations in an index: what the last layer saw and said of every row; building, and asking with queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedModel

from headwater.attribution.build import of_run, warn_of_cuts
from headwater.attribution.passes import Passes
from headwater.attribution.row_files import build_row_files
from headwater.gradients import encoded_batches
from headwater.gradients.representations import last_layer, representations
from headwater.methods import RepresentationBlock, RepresentationPart
from headwater.progress import progress_bar
from headwater.runs import Checkpoint, Encoding, Run, text_task
from headwater.store import RowRange, StoredCheckpoint
from headwater.store.columns import Column
from headwater.store.rows import RowManifest, RowStore
from headwater.store.steady import read_steadily

FOLDER = "representations"
KIND = "representations"


def build_representations(
    run: Run,
    folder: Path,
    *,
    checkpoints: Sequence[Checkpoint],
    device: str,
    show: bool | None,
    follows: bool = False,
) -> None:
    """Write what is missing of the representations into the index `folder`: one forward pass a row and checkpoint.

    With `follows` those of other rows are carried over into the run's (see `store.carry`).
    """
    passes = Passes(run, checkpoints, device)
    plan = plan_representations(run, passes.models.load(checkpoints[-1]), checkpoints=checkpoints, device=device)
    with progress_bar("representations", len(run.corpus) * len(checkpoints), show=show) as advance:

        def rows_of(
            passes: Passes, checkpoint: StoredCheckpoint, rows: RowRange
        ) -> Iterator[tuple[Int64[Tensor, "n"], dict[str, Tensor]]]:
            model = passes.model(checkpoint)
            for numbers, found in representations(model, passes.batches(rows), run.task.losses):
                yield numbers, {column.name: found[column.name] for column in plan.columns}
                advance(len(numbers))

        place, of = folder / FOLDER, partial(partial, rows_of)
        made = build_row_files(passes, place, plan, of, follows=follows, kept=advance)
    warn_of_cuts(*made)


def plan_representations(
    run: Run, model: PreTrainedModel, *, checkpoints: Sequence[Checkpoint], device: str
) -> RowManifest:
    """Say what the representations will hold; nothing is computed."""
    head = last_layer(model)
    assert head.matrix is not None
    classes = () if text_task(run.task) is not None else ("logits", "errors")
    return RowManifest(
        kind=KIND,
        spec={"layer": head.name, "bias": head.bias},
        columns=(
            Column("features", (head.matrix[1],)),
            Column("losses", ()),
            *(Column(name, (head.matrix[0],)) for name in classes),
        ),
        **of_run(run, checkpoints, device),
    )


def open_representations(folder: Path) -> RowStore | None:
    """Open the representations of an index, if they are there and whole."""
    place = folder / FOLDER
    return read_steadily(place, partial(RowStore.held, place)) if (place / "manifest.json").is_file() else None


def representation_part(
    run: Run,
    model: PreTrainedModel,
    store: RowStore,
    stored: StoredCheckpoint,
    encodings: Sequence[Encoding],
    targets: Sequence[int],
) -> RepresentationPart:
    """Return the rows' representations at one checkpoint, and the queries'."""
    taken = list(representations(model, encoded_batches(run, encodings, targets), run.task.losses))
    order = torch.argsort(torch.cat([rows for rows, _ in taken]))
    queries = {name: torch.cat([found[name] for _, found in taken])[order] for name in taken[0][1]}
    return RepresentationPart(
        checkpoint=stored,
        weight=stored.weight,
        run=0,
        rows=store.manifest.rows,
        bias=bool(store.manifest.spec["bias"]),
        queries=_block(0, queries),
        blocks=lambda: _blocks(store, stored),
    )


def _blocks(store: RowStore, stored: StoredCheckpoint) -> Iterator[RepresentationBlock]:
    """Go through the rows in blocks that all columns share."""
    names = [column.name for column in store.manifest.columns]
    for rows in store.manifest.ranges:
        numbers = torch.arange(rows.start, rows.stop).numpy()
        yield _block(rows.start, {name: store.read(stored, name, numbers) for name in names})


def _block(start: int, columns: dict[str, Tensor]) -> RepresentationBlock:
    return RepresentationBlock(
        start, columns["features"], columns.get("logits"), columns.get("errors"), columns["losses"]
    )
