"""How much the training rows undo each other's steps, for one group of layers beside another.

Of a group of weights, with rows x, checkpoints c of weight eta_c, and g the gradient of the row's loss:

    norm       sum_c sum_x eta_c |g_c(x)|_2 / |dW|_2                        one number for the whole group
    element    median over touched entries w of  sum_c sum_x eta_c |g_c(x)_w| / |dW_w|
    gradient   sum_w sum_c sum_x eta_c |g_c(x)_w| / sum_w |sum_c sum_x eta_c g_c(x)_w|

1 means that nothing cancels; 100, that a hundredth of what the rows pushed is left. Source: Yeh et al. 2022, First is
Better Than Last for Language Data Influence (arXiv 2202.11844), section 3. Whether a low ratio makes a layer good to
trace by is disputed (Vitel & Chhabra 2026, arXiv 2511.04715).
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from torch import Tensor
from transformers import PreTrainedModel

from headwater.attribution.build import check_weights
from headwater.attribution.members import default_device
from headwater.attribution.passes import Models
from headwater.errors import HeadwaterWarning, ModelError, RunError, UsageError
from headwater.gradients import Batch, batch_tokens, encoded_batches
from headwater.gradients.layers import Cancellation, CancellationSums, Selection, Tied, capture_layers, select_layers
from headwater.models.load import load_model
from headwater.progress import progress_bar
from headwater.runs import Checkpoint, Run
from headwater.runs.record import record_folder
from headwater.store import RANGE_ROWS

Against = Literal["steps", "training"]

_USUAL = ("word-embeddings", "quarter:1", "quarter:2", "quarter:3", "quarter:4", "adapters", "last", "all")


@dataclass(frozen=True)
class GroupCancellation:
    """The ratios of one group."""

    group: str
    """The patterns that name it."""
    layers: tuple[str, ...]
    parameters: int
    """Entries of one row's gradient over all its layers."""
    ratios: Cancellation
    left_out: str
    """What of the group cannot be captured, in words; empty where nothing."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the group, its layers, and the ratios beside them, None where one is no number."""
        facts: dict[str, Any] = {"group": self.group, "layers": list(self.layers), "parameters": self.parameters}
        ratios = {name: value if math.isfinite(value) else None for name, value in asdict(self.ratios).items()}
        return {**facts, **ratios, "left_out": self.left_out}


def cancellation(
    run: Run,
    groups: Sequence[str] | None = None,
    *,
    checkpoints: str | Sequence[str | int] = "all",
    sample: int | None = None,
    seed: int = 0,
    against: Against = "steps",
    tied: Tied = "joint",
    device: str | None = None,
    show: bool | None = None,
) -> list[GroupCancellation]:
    """Measure the three cancellation ratios (see the module's top) of each group of layers, in one pass over the rows.

    `groups` are layer patterns, each with commas as in `--layers`; None: the word embeddings, the quarters of depth,
    the adapters, the last layer and all, as far as the model has them (a warning names the others). The rates eta are
    the weights of the `checkpoints`. `sample` takes so many rows, drawn by `seed`, instead of all.
    dW is the sum of the steps themselves (`against="steps"`), or the change of the weights from those that the training
    began with to the last of the checkpoints (`"training"`: of SGD on all rows about the same, of Adam of another
    size, and of a sample too large). `tied`: weights that embedding and head share are one parameter ("joint").

    Memory: two float64 vectors as long as the gradient over all groups, and one batch's factors. Raises UsageError
    for what the model does not have, and RunError where the weights before training were not kept.
    """
    if against not in get_args(Against):
        raise UsageError(f"against must be one of {', '.join(get_args(Against))}; it is {against!r}.")
    if sample is not None and sample < 1:
        raise UsageError(f"sample must be at least 1 row; it is {sample}.")
    chosen = run.select(checkpoints)
    check_weights(run, chosen)
    models = Models(device or default_device())
    model = _load(models, chosen[-1])
    selections = _selections(run, model, groups, tied)
    _check_sides(selections, against)
    changes = _changes(run, model) if against == "training" else None
    sums = _sums(run, models, chosen, _rows(len(run.corpus), sample, seed), selections, show)
    return [
        GroupCancellation(
            name,
            tuple(layer.name for layer in selection.layers),
            selection.size,
            sums.ratios(changes, group=name),
            selection.note(),
        )
        for name, selection in selections.items()
    ]


def _sums(
    run: Run,
    models: Models,
    checkpoints: Sequence[Checkpoint],
    rows: Sequence[int],
    selections: Mapping[str, Selection],
    show: bool | None,
) -> CancellationSums:
    """Take the rows through every checkpoint."""
    layers = {layer.name: layer for selection in selections.values() for layer in selection.layers}
    groups = {name: [layer.name for layer in selection.layers] for name, selection in selections.items()}
    sums = CancellationSums(layers.values(), groups)
    with progress_bar("cancellation", len(rows) * len(checkpoints), show=show) as advance:
        for batches in _batches(run, rows, models.device):
            for checkpoint in checkpoints:
                with capture_layers(_load(models, checkpoint), tuple(layers.values())) as capture:
                    for batch in batches:
                        sums.add(capture.factors(batch, run.task.losses), checkpoint.weight)
                        advance(len(batch.rows))
    return sums


def _load(models: Models, checkpoint: Checkpoint) -> PreTrainedModel:
    """A LoRA adapter stays beside its base, so that its own parameters have gradients."""
    return models.load(checkpoint, merged=not _adapted(checkpoint))


def _adapted(checkpoint: Checkpoint) -> bool:
    return (checkpoint.path / "adapter_config.json").is_file()


def _selections(run: Run, model: PreTrainedModel, groups: Sequence[str] | None, tied: Tied) -> dict[str, Selection]:
    """Select each group. Of the usual ones those that the model does not have are left out, with a warning."""
    if groups is not None:
        return {group: select_layers(model, group, tied=tied) for group in groups}
    usual = [name for name in _USUAL if name != "adapters" or _adapted(run.checkpoints[-1])]
    found: dict[str, Selection] = {}
    lacking: list[str] = []
    for name in usual:
        try:
            found[name] = select_layers(model, name, tied=tied)
        except (ModelError, UsageError):
            lacking.append(name)
    if lacking:
        warnings.warn(f"this model has no {', '.join(lacking)}: left out.", HeadwaterWarning, stacklevel=3)
    return found


def _check_sides(selections: dict[str, Selection], against: Against) -> None:
    """A side of a tied weight has no change of its own, and both would count the weight's change twice."""
    for selection in selections.values() if against == "training" else ():
        names = [name for layer in selection.layers for name in layer.parameters]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UsageError(f"both sides of {twice[0]} moved together: against='training' needs tied='joint'.")


def _changes(run: Run, model: PreTrainedModel) -> dict[str, Tensor]:
    """What training made of each parameter. Raises RunError where the weights before it were not kept."""
    initial = record_folder(run.folder) / "initial"
    if not initial.is_dir():
        raise RunError(
            f"{run.folder}: the weights before training were not kept (only hw.Recorder and `headwater train` keep "
            "them), so their change is not known. Choose against='steps'."
        )
    before = load_model(initial, run.task.auto, merge=False)
    first = dict(before.named_parameters())
    return {name: after.detach().cpu() - first[name].detach() for name, after in model.named_parameters()}


def _rows(count: int, sample: int | None, seed: int) -> list[int]:
    if sample is None or sample >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), sample))


def _batches(run: Run, rows: Sequence[int], device: str) -> Iterator[list[Batch]]:
    """Tokenize a few thousand rows at a time, for every checkpoint."""
    for start in range(0, len(rows), RANGE_ROWS):
        numbers = rows[start : start + RANGE_ROWS]
        encodings = run.task.encode(run.tokenizer, [run.corpus[row] for row in numbers])
        targets = [run.targets[row] for row in numbers]
        weights = None if run.corpus.weights is None else [run.corpus.weights[row] for row in numbers]
        yield list(encoded_batches(run, encodings, targets, tokens=batch_tokens(device), weights=weights))
