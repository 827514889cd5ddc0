"""Representer points (Yeh et al. 2018, Representer Point Selection for Explaining Deep Neural Networks, 1811.09720).

    alpha_x     = - 1 / (2 lambda n) * dl(x)/df(x)                      f: logits, n: training rows
    score(q, x) = alpha_x[y'] * < a_x, a_q >                            y': the class explained of q

a is the input of the last layer, with a 1 after it where that has a bias. Positive: the row pulls the logit of y' up,
as a row of class y' with like features does. Where the last layer is at the minimum of mean loss + lambda |W|^2 (the
bias part of W), a query's scores add up to that logit; elsewhere they need not. The model meant is the finished one:
the last of the checkpoints, of each run; several runs are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64
from torch import Tensor

from headwater.errors import UsageError
from headwater.methods.last_layer import LastLayer, Share, errors_of, last_of_each_run, with_bias
from headwater.methods.method import CheckpointOptions, Question
from headwater.methods.parts import RepresentationBlock, RepresentationPart


@dataclass(frozen=True)
class Representer(CheckpointOptions):
    """Options of representer points."""

    l2: float = field(
        default=1e-3, metadata={"help": "lambda of the L2 penalty lambda |W|^2. It scales all scores alike."}
    )

    def __post_init__(self) -> None:
        if not 0 < self.l2 < float("inf"):
            raise UsageError(f"l2 must be above 0; it is {self.l2}.")


def prepare(question: Question, options: Representer) -> LastLayer:
    """Set the query's features where the class explained stands, and 0 at the others."""
    parts = last_of_each_run(question.representations(options.checkpoints))
    return LastLayer([_share(part, question.targets, options.l2, 1 / len(parts)) for part in parts])


def _share(part: RepresentationPart, targets: Sequence[int], l2: float, weight: float) -> Share:
    errors = errors_of(part.queries)
    chosen = torch.nn.functional.one_hot(torch.tensor(list(targets)), errors.shape[1]).double()
    asked = -1 / (2 * l2 * part.rows) * chosen[:, :, None] * with_bias(part, part.queries)[:, None, :]

    def sides(block: RepresentationBlock) -> tuple[Float64[Tensor, "n j"], Float64[Tensor, "n c"]]:
        return with_bias(part, block), errors_of(block)

    return Share(part, weight, asked, sides)
