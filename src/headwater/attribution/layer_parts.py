"""Layer gradients of a block of queries at one checkpoint, beside the stored rows; and either, place by place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from transformers import PreTrainedModel

from headwater.attribution.layer_sets import LayerSet, pushed, scaling
from headwater.attribution.members import Member
from headwater.attribution.queries import pass_through
from headwater.gradients import Batch, encoded_batches
from headwater.gradients.layers import Layer, PlacePart, capture_layers, place_vectors
from headwater.gradients.layers.adam import AdamStep
from headwater.gradients.layers.gradients import Update
from headwater.gradients.layers.moments import Denominators
from headwater.methods import LayerPart, PlaceVectors
from headwater.runs import Checkpoint, Encoding
from headwater.store import StoredCheckpoint


@dataclass(frozen=True)
class Asked:
    """Queries, a set, and the checkpoint at which they meet."""

    member: Member
    layers: LayerSet
    stored: StoredCheckpoint
    encodings: Sequence[Encoding]
    targets: Sequence[int]
    second_moments: bool
    """Divide the queries' side, though the set is of plain gradients."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Return the run's own checkpoint."""
        return self.member.checkpoints[self.stored.fingerprint]

    @property
    def model(self) -> PreTrainedModel:
        """Return its model."""
        return self.member.models.load(self.checkpoint, merged=self.layers.spec.merged)

    @cached_property
    def selected(self) -> tuple[Layer, ...]:
        """Return the set's layers in the model."""
        return self.layers.spec.select(self.model).layers


def push_queries(asked: Asked) -> tuple[Float32[Tensor, "queries k"], Float32[Tensor, "queries"]]:
    """Return what each query pushed, projected as the set's rows are, and its loss."""
    run = asked.member.run
    gradients = torch.zeros(len(asked.encodings), asked.layers.size)
    losses = torch.zeros(len(asked.encodings))
    batches = list(encoded_batches(run, asked.encodings, asked.targets))
    by = _updates(asked, rows=False)
    pass_through(len(asked.encodings), asked.stored.name)
    for rows, found, each in pushed(run, asked.model, batches, asked.selected, asked.layers.spec.projector, by):
        gradients[rows], losses[rows] = found, each
    return gradients, losses


def layer_part(
    asked: Asked,
    names: Sequence[str],
    queries: tuple[Float32[Tensor, "queries k"], Float32[Tensor, "queries"]],
    weight: float,
    run: int,
) -> LayerPart:
    """Return the part of some layers of the set; `queries` are those of `push_queries`, over all its layers."""
    at, spans = asked.layers.part(names)
    store, stored = asked.layers.store, asked.stored
    gradients, losses = queries

    def take(rows: Int64[np.ndarray, "r"]) -> Float32[Tensor, "r k"]:
        found: Tensor = store.read(stored, "gradients", rows)
        return found[:, at]

    return LayerPart(
        checkpoint=stored,
        weight=weight,
        run=run,
        layers=spans,
        queries=gradients[:, at],
        query_losses=losses,
        losses=store.read(stored, "losses"),
        blocks=lambda: store.blocks(stored, "gradients", at),
        take=take,
        query_places=lambda query: _query_places(asked, names, query),
        row_places=lambda rows: _row_places(asked, names, rows),
        kept=asked.layers.kept.setdefault((stored.fingerprint, spans), {}),
    )


def _query_places(asked: Asked, names: Sequence[str], query: int) -> PlaceVectors:
    return _places(asked, names, [asked.encodings[query]], [asked.targets[query]], rows=False)[0]


def _row_places(asked: Asked, names: Sequence[str], rows: Int64[np.ndarray, "r"]) -> list[PlaceVectors]:
    run = asked.member.run
    encodings = run.task.encode(run.tokenizer, [run.corpus[int(row)] for row in rows])
    weights = None if run.corpus.weights is None else [run.corpus.weights[int(row)] for row in rows]
    return _places(asked, names, encodings, [run.targets[int(row)] for row in rows], rows=True, weights=weights)


def _places(
    asked: Asked,
    names: Sequence[str],
    encodings: Sequence[Encoding],
    targets: Sequence[int],
    *,
    rows: bool,
    weights: Sequence[float] | None = None,
) -> list[PlaceVectors]:
    """Take what these texts pushed apart, place by place, layer beside layer."""
    updates = _updates(asked, rows=rows)
    chosen = [layer for layer in asked.selected if layer.name in set(names)]
    if any(isinstance(update, AdamStep) for update in (updates or {}).values()):  # no sum over places
        return [_whole(asked, names)] * len(encodings)
    by = {name: update for name, update in (updates or {}).items() if isinstance(update, Denominators)}
    run, projections = asked.member.run, asked.layers.spec.projector.of(chosen)
    found: list[PlaceVectors | None] = [None] * len(encodings)
    with capture_layers(asked.model, chosen) as capture:
        for batch in encoded_batches(run, encodings, targets, weights=weights):
            batch = _told_apart(batch)
            width = batch.inputs["input_ids"].shape[1]
            factors = capture.factors(batch, run.task.losses)
            taken = [
                place_vectors(factors[layer.name], projections[layer.name], width, by=by.get(layer.name))
                for layer in chosen
            ]
            for number, row in enumerate(batch.rows.tolist()):
                found[row] = _joined(taken, number, encodings[row])
    return [each for each in found if each is not None]


def _joined(taken: Sequence[PlacePart], number: int, encoding: Encoding) -> PlaceVectors:
    """Put the layers of one text side by side; places behind its end pushed nothing."""
    length = len(encoding.input_ids)
    vectors = [
        torch.zeros(length, part.rest.shape[1]) if part.vectors is None else part.vectors[number, :length]
        for part in taken
    ]
    return PlaceVectors(
        tokens=np.array(encoding.input_ids, dtype=np.int64),
        places=np.arange(length),
        vectors=torch.cat(vectors, dim=1),
        rest=torch.cat([part.rest[number] for part in taken]),
    )


def _whole(asked: Asked, names: Sequence[str]) -> PlaceVectors:
    _, spans = asked.layers.part(names)
    size = spans[-1].stop
    none = np.zeros(0, dtype=np.int64)
    return PlaceVectors(none, none, torch.zeros(0, size), torch.zeros(size))


def _told_apart(batch: Batch) -> Batch:
    """Where encoder and decoder texts have one width, give the encoder's one more place of padding."""
    inputs = dict(batch.inputs)
    other = inputs.get("decoder_input_ids")
    if other is None or other.shape[1] != inputs["input_ids"].shape[1]:
        return batch
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name in inputs:
            inputs[name] = torch.nn.functional.pad(inputs[name], (0, 1))  # the mask says that it is none
    return Batch(batch.rows, inputs, batch.targets, batch.weights)


def _updates(asked: Asked, *, rows: bool) -> dict[str, Update] | None:
    """What becomes of the gradients: of rows what the set says, of queries that or what was asked."""
    scale = asked.layers.spec.scale
    if not rows:
        scale = "second-moments" if asked.second_moments or scale == "second-moments" else "none"
    return scaling(asked.member.run, asked.checkpoint, asked.selected, scale)
