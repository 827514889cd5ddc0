"""What building for a method will write, known to the byte before anything is computed.

Of layer gradients and representations a row takes the same bytes whatever its text. (What token gradients take depends
on the texts: see `estimate`.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.attribution.layer_sets import LayerSpec, plan_layers
from headwater.attribution.members import default_device
from headwater.attribution.passes import Models
from headwater.attribution.representations import FOLDER as REPRESENTATIONS
from headwater.attribution.representations import plan_representations
from headwater.gradients.layers import Selection
from headwater.runs import Checkpoint, Run
from headwater.store import Dtype, RowManifest, RowRange

_FILE_BYTES = 2000  # header of a segment and its entry in the manifest


@dataclass(frozen=True)
class StorePlan:
    """Arrays of a fixed shape a row that an index will hold."""

    folder: Path
    manifest: RowManifest
    selection: Selection | None
    """Layers and what was left out of them; None for representations."""

    @property
    def numbers(self) -> int:
        """Return how many numbers are stored of a row at one checkpoint, its loss not counted."""
        return sum(math.prod(column.shape) for column in self.manifest.columns if column.name != "losses")

    @property
    def row_bytes(self) -> int:
        """Return the bytes that a row takes at one checkpoint."""
        return self._bytes(RowRange(0, 1, ""))

    @property
    def disk_bytes(self) -> int:
        """Return what is still to be written; segments that are there are kept."""
        missing = [
            rows
            for rows, checkpoint in self.manifest.segments()
            if not (self.folder / self.manifest.segment_path(checkpoint, rows)).exists()
        ]
        return sum(self._bytes(rows) + _FILE_BYTES for rows in missing)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: which layers (None: representations), and what a row takes at one checkpoint."""
        return {
            "store": self.folder.name,
            "patterns": self.manifest.spec.get("layers"),
            "scale": self.manifest.spec.get("scale"),
            "layers": None if self.selection is None else [layer.name for layer in self.selection.layers],
            "numbers": self.numbers,
            "row_bytes": self.row_bytes,
            "left_out": "" if self.selection is None else self.selection.note(),
        }

    def _bytes(self, rows: RowRange) -> int:
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.manifest.shapes(rows).values())


def plan_store(
    run: Run,
    folder: Path,
    spec: LayerSpec | None,
    *,
    checkpoints: Sequence[Checkpoint],
    dtype: Dtype = "float16",
    device: str | None = None,
) -> StorePlan:
    """Plan a set of layer gradients in the index `folder`, or (`spec` None) the representations.

    Loads the last checkpoint. Raises ModelError, UsageError where it has no such layers.
    """
    device = device or default_device()
    model = Models(device).load(checkpoints[-1], merged=spec is None or spec.merged)
    if spec is None:
        manifest = plan_representations(run, model, checkpoints=checkpoints, device=device)
        return StorePlan(folder / REPRESENTATIONS, manifest, None)
    selection = spec.select(model)
    manifest = plan_layers(run, spec, selection.layers, checkpoints=checkpoints, dtype=dtype, device=device)
    return StorePlan(folder / spec.folder, manifest, selection)
