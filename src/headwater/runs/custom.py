"""A loss of the user's own: any per-example loss as a function, in the place of a task's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from headwater.errors import ModelError, RunError
from headwater.runs.corpus import Example, Label
from headwater.runs.task import Encoding, Task

Loss = Callable[[PreTrainedModel, Mapping[str, Tensor], Tensor], Tensor]
"""(model, the model's inputs, targets) -> each example's own loss [n]. Targets are class numbers [n]; of a language
model token ids [n, t], -100 where none is wanted. A loss must not mix examples."""


@dataclass(frozen=True)
class CustomLoss:
    """`task` with another loss: `CustomLoss(Classification(), focal_loss)`.

    Files hold the function's qualified name, never the function: `Run.open(folder, task=CustomLoss(...))` gives it
    again. Two functions of one name are taken for the same.
    """

    base: Task
    function: Loss
    saved_name: str = ""

    @property
    def name(self) -> str:
        """Module and qualified name of the function."""
        made = f"{getattr(self.function, '__module__', '?')}:{getattr(self.function, '__qualname__', '?')}"
        return self.saved_name or made

    @property
    def kind(self) -> str:
        """The base task's kind."""
        return self.base.kind

    @property
    def max_length(self) -> int | None:
        """The base task's."""
        return self.base.max_length

    @property
    def auto(self) -> str:
        """The base task's."""
        return self.base.auto

    @property
    def needs_labels(self) -> bool:
        """The base task's."""
        return self.base.needs_labels

    @property
    def label_smoothing(self) -> float:
        """The base task's, if it has any."""
        return float(getattr(self.base, "label_smoothing", 0.0))

    def targets(
        self,
        labels: Sequence[Label | None],
        config: PreTrainedConfig,
        *,
        where: str,
        rows: Sequence[int] | None = None,
    ) -> list[int]:
        """As the base task."""
        return self.base.targets(labels, config, where=where, rows=rows)

    def encode(
        self, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], *, offsets: bool = False
    ) -> list[Encoding]:
        """As the base task."""
        return self.base.encode(tokenizer, examples, offsets=offsets)

    def collate(
        self, encodings: Sequence[Encoding], tokenizer: PreTrainedTokenizerFast
    ) -> dict[str, Int[Tensor, "batch length"]]:
        """As the base task."""
        return self.base.collate(encodings, tokenizer)

    def losses(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor], targets: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Call the function. Raises ModelError where it does not give one loss an example."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "targets"}
        wanted = batch.get("targets", targets)
        losses = self.function(model, inputs, wanted)
        count = len(batch["input_ids"])
        if not isinstance(losses, Tensor) or losses.shape != (count,):
            shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ModelError(f"the loss {self.name} must give one number an example: [{count}], not {shape}.")
        return losses.float()

    def batch_loss(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor], targets: Int[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """The mean of the examples' losses."""
        return self.losses(model, batch, targets).mean()

    def predict(self, model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch classes"]:
        """As the base task."""
        return self.base.predict(model, batch)

    def check_model(self, config: PreTrainedConfig) -> None:
        """As the base task."""
        self.base.check_model(config)

    def with_limit(self, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> CustomLoss:
        """The same loss of the base task with its limits filled in."""
        return replace(self, base=self.base.with_limit(tokenizer, config))

    def shown(self, example: Example) -> Example:
        """As the base task."""
        return self.base.shown(example)

    def to_json(self) -> dict[str, Any]:
        """The base task's, and the name of the loss."""
        return {**self.base.to_json(), "loss": self.name}

    @classmethod
    def without_function(cls, base: Task, name: str) -> CustomLoss:
        """The task as a file knows it, with a function that raises RunError: files hold its name alone."""

        def lost(*_: Any) -> Tensor:
            raise RunError(asks_for(name))

        return cls(base, cast(Loss, lost), name)

    @property
    def lost(self) -> bool:
        """Whether the function is missing: the task was read from a file."""
        return bool(self.saved_name)


def asks_for(name: str) -> str:
    """The sentence that asks for a loss that is not there."""
    return (
        f"this run was trained with a loss of its own, {name}, which files do not hold. "
        "Give it: Run.open(folder, task=CustomLoss(task, function))."
    )
