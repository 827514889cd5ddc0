"""What a proof measures, and how it is told: right answers of a classifier, or the loss of a language model's texts.

classes    accuracy decides; a row is fixed where most seeds were wrong before and are right after
tokens     the mean loss of a target token decides; a row is improved where its own loss a token fell by more than
           LEAST in every seed, worsened where it rose so: of long texts hardly one becomes right in every token
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

LEAST = 0.1
"""Nats a token. Less than that is no change of a row: exp(0.1) is a token 1.1 times as likely."""


@dataclass(frozen=True)
class Measure:
    """The words of a measure; `decides` names the difference that the verdict goes by."""

    name: Literal["classes", "tokens"]
    decides: Literal["accuracy", "loss"]
    accuracy: str
    """What the share of right answers is called, as `loss`, `fixed` and `broken` are what theirs are called."""
    loss: str
    fixed: str
    broken: str
    meaning: str
    """What `fixed` and `broken` mean, and when a difference counts."""
    control: str
    """What the control arm is."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


CLASSES = Measure(
    name="classes",
    decides="accuracy",
    accuracy="accuracy",
    loss="loss",
    fixed="fixed",
    broken="broken",
    meaning="Fixed: wrong for most seeds before and right after; broken: the other way. A difference counts as one "
    "where the interval of accuracy leaves 0 out and a sign test over test rows agrees (p below 0.05).",
    control="the same changes on random rows of the same labels",
)
TOKENS = Measure(
    name="tokens",
    decides="loss",
    accuracy="token accuracy",
    loss="loss a token",
    fixed="improved",
    broken="worsened",
    meaning="Loss a token: the mean over all target tokens of the test rows. Token accuracy: the share of them that "
    f"are the model's first choice. Improved: the row's own loss a token fell by more than {LEAST:g} nats in every "
    "seed; worsened: it rose so. A difference counts as one where the interval of the loss a token leaves 0 out.",
    control="as many random rows deleted or weighted anew, of the same sources where the corpus names them",
)
MEASURES = {measure.name: measure for measure in (CLASSES, TOKENS)}
