"""Sets of layer gradients in an index: which layers, projected how, divided by what; building and opening them.

One set serves every method that its layers and its scale suit. A set is a folder, INDEX/layers/NAME-DIGEST.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from transformers import PreTrainedModel

from headwater.attribution.build import of_run, warn_of_cuts
from headwater.attribution.passes import Passes
from headwater.attribution.row_files import build_row_files
from headwater.errors import StoreError, UsageError
from headwater.files import canonical_json, digest
from headwater.gradients.layers import (
    Layer,
    Projector,
    Selection,
    Tied,
    denominators,
    layer_gradients,
    second_moments,
    select_layers,
)
from headwater.gradients.layers.adam import adam_steps
from headwater.gradients.layers.gradients import Update
from headwater.gradients.layers.optimizer import adam_states
from headwater.methods import LayerSpan, Scale
from headwater.progress import progress_bar
from headwater.runs import Checkpoint, Run
from headwater.store import Dtype, RowRange, StoredCheckpoint
from headwater.store.columns import Column
from headwater.store.rows import RowManifest, RowStore
from headwater.store.steady import read_steadily
from headwater.training.trained import rates_of

FOLDER = "layers"
KIND = "layer-gradients"
_EXACT = 1 << 16  # numbers of a last layer's gradient that are kept as they are


@dataclass(frozen=True)
class LayerSpec:
    """What a set holds."""

    layers: str
    """Patterns, joined by commas (see `gradients.layers.patterns`)."""
    tied: Tied = "separate"
    projector: Projector = field(default_factory=Projector)
    scale: Scale = "none"
    merged: bool = True
    """False: a LoRA adapter stands beside its base, so that its own parameters have gradients."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "projector": self.projector.to_json()}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> LayerSpec:
        """Make it of what `to_json` gave; what else stands there is left out."""
        known = {name: saved[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "projector": Projector(**known["projector"])})

    @property
    def folder(self) -> str:
        """Return where it stands in an index."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.layers).strip("-")[:40] or "layers"
        return f"{FOLDER}/{name}-{digest([canonical_json(self.to_json())])[:8]}"

    def select(self, model: PreTrainedModel) -> Selection:
        """Return the layers of a model. Raises UsageError, ModelError."""
        return select_layers(model, self.layers, tied=self.tied)


def layer_spec(
    run: Run, layers: str | None, *, default: str = "all", tied: Tied, projector: Projector | None, scale: Scale
) -> LayerSpec:
    """Fill in what the user left open: of a run with adapters, the adapters; for the last layer alone, which is small
    in a classifier, gradients that are not projected.
    """
    adapted = any((checkpoint.path / "adapter_config.json").is_file() for checkpoint in run.checkpoints)
    if layers is None:
        layers = "adapters" if adapted and default == "all" else default
    if projector is None:
        projector = Projector(exact_below=_EXACT) if layers == "last" else Projector()
    return LayerSpec(layers.replace(" ", ""), tied, projector, scale, not adapted)


def build_layers(
    run: Run,
    folder: Path,
    spec: LayerSpec,
    *,
    checkpoints: Sequence[Checkpoint],
    dtype: Dtype,
    device: str,
    show: bool | None,
    follows: bool = False,
) -> str:
    """Write what is missing of a set into the index `folder`; return what of it was left out ("" for nothing).

    With `follows` a set of other rows is carried over into one of the run's (see `store.carry`).
    """
    passes = Passes(run, checkpoints, device)
    selection = spec.select(passes.models.load(checkpoints[-1], merged=spec.merged))
    plan = plan_layers(run, spec, selection.layers, checkpoints=checkpoints, dtype=dtype, device=device)
    with progress_bar("layers", len(run.corpus) * len(checkpoints), show=show) as advance:

        def rows_of(
            passes: Passes, checkpoint: StoredCheckpoint, rows: RowRange
        ) -> Iterator[tuple[Int64[Tensor, "n"], dict[str, Tensor]]]:
            asked = pushed(
                run,
                passes.model(checkpoint, merged=spec.merged),
                passes.batches(rows),
                selection.layers,
                spec.projector,
                scaling(run, passes.checkpoint(checkpoint), selection.layers, spec.scale),
            )
            for numbers, gradients, losses in asked:
                yield numbers, {"gradients": gradients, "losses": losses}
                advance(len(numbers))

        place, of = folder / spec.folder, partial(partial, rows_of)
        made = build_row_files(passes, place, plan, of, follows=follows, kept=advance)
    warn_of_cuts(*made)
    return selection.note()


def plan_layers(
    run: Run,
    spec: LayerSpec,
    layers: Sequence[Layer],
    *,
    checkpoints: Sequence[Checkpoint],
    dtype: Dtype,
    device: str,
) -> RowManifest:
    """Say what a set will hold; nothing is computed."""
    sizes = {name: projection.size for name, projection in spec.projector.of(layers).items()}
    widths = tuple(sizes.values())
    spans = [{"name": layer.name, "size": sizes[layer.name], "parameters": layer.size} for layer in layers]
    return RowManifest(
        kind=KIND,
        spec={**spec.to_json(), "spans": spans},
        columns=(
            Column("gradients", (sum(widths),), dtype, widths if dtype == "float16" else ()),
            Column("losses", ()),
        ),
        **of_run(run, checkpoints, device),
    )


def pushed(
    run: Run,
    model: PreTrainedModel,
    batches: Sequence[Any],
    layers: Sequence[Layer],
    projector: Projector,
    updates: Mapping[str, Update] | None,
) -> Iterator[tuple[Int64[Tensor, "n"], Float32[Tensor, "n k"], Float32[Tensor, "n"]]]:
    """Yield of each batch its rows, their projected gradients, and their losses."""
    seen: list[Tensor] = []

    def losses(*given: Any) -> Tensor:
        each = run.task.losses(*given)
        seen.append(each.detach())
        return each

    for found in layer_gradients(model, batches, losses, layers, projector, updates=updates):
        joined = torch.cat([found.gradients[layer.name] for layer in layers], dim=1)
        yield found.rows, joined, seen.pop().float().cpu()
        seen.clear()


def scaling(run: Run, checkpoint: Checkpoint, layers: Sequence[Layer], scale: Scale) -> dict[str, Update] | None:
    """Return what becomes of a checkpoint's gradients. Raises RunError where the run did not keep what that needs."""
    if scale == "none":
        return None
    if scale == "second-moments":
        return {**denominators(layers, moments_of(run, checkpoint))}
    return {**adam_steps(layers, adam_states(checkpoint.path, optimizer_names(run)))}


def moments_of(run: Run, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Read Adam's second moments of a checkpoint, by parameter name. Raises RunError."""
    return second_moments(checkpoint.path, optimizer_names(run))


def optimizer_names(run: Run) -> list[list[str]]:
    """Return the parameter names of each optimizer group, which Recorder wrote down. Raises UsageError."""
    log = rates_of(run)
    if log is None:
        raise UsageError(
            f"{run.folder}: second moments need the optimizer's order of parameters, which only hw.Recorder (or "
            "`headwater train`) writes down. Choose a method or option without them."
        )
    return log.parameters


@dataclass(frozen=True)
class LayerSet:
    """An opened set."""

    store: RowStore
    kept: dict[Any, dict[Any, Any]] = field(default_factory=dict, repr=False, compare=False)
    """What methods made of its rows, by checkpoint and layers (see `LayerPart.once`); for as long as it is open."""

    @cached_property
    def spec(self) -> LayerSpec:
        """Return what it holds."""
        return LayerSpec.from_json(self.store.manifest.spec)

    @cached_property
    def spans(self) -> tuple[LayerSpan, ...]:
        """Return where each layer stands."""
        found, start = [], 0
        for entry in self.store.manifest.spec["spans"]:
            found.append(LayerSpan(entry["name"], start, start + entry["size"]))
            start += entry["size"]
        return tuple(found)

    @property
    def size(self) -> int:
        """Return the length of a vector."""
        return self.spans[-1].stop

    def holds(self, names: Sequence[str]) -> bool:
        """Are these layers all in it?"""
        return set(names) <= {span.name for span in self.spans}

    def part(self, names: Sequence[str]) -> tuple[slice | Int64[np.ndarray, "k"], tuple[LayerSpan, ...]]:
        """Return where the numbers of these layers stand in a vector, and their spans among those."""
        chosen = [span for span in self.spans if span.name in set(names)]
        spans, start = [], 0
        for span in chosen:
            size = span.stop - span.start
            spans.append(replace(span, start=start, stop=start + size))
            start += size
        if chosen[-1].stop - chosen[0].start == start:  # side by side: no copy needs to be picked together
            return slice(chosen[0].start, chosen[-1].stop), tuple(spans)
        return np.concatenate([np.arange(span.start, span.stop) for span in chosen]), tuple(spans)


def open_sets(folder: Path) -> tuple[LayerSet, ...]:
    """Open the finished sets of an index, by folder name. Raises StoreError where one is damaged."""
    found = sorted(path.parent for path in (folder / FOLDER).glob("*/manifest.json"))
    sets = tuple(LayerSet(read_steadily(place, partial(RowStore.held, place))) for place in found)
    for each in sets:
        if each.store.manifest.kind != KIND:
            raise StoreError(f"{each.store.folder}: holds {each.store.manifest.kind}, not {KIND}.")
    return sets
