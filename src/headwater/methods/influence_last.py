"""Influence functions on the last layer, exact (Koh & Liang 2017, 1703.04730; Inf-Last of Yeh et al. 2022).

    H           = 1/n sum_x  s_x (diag p_x - p_x p_x^T) (x) a_x a_x^T           p: softmax of the logits
    score(q, x) = 1/n  g_q^T (H + lambda I)^-1 g_x                              g = dl/df (x) a

a is the input of the last layer, with a 1 after it where that has a bias; the other layers are held fixed. s_x is the
weight of the row's loss: with targets t (smoothed, times class weights) the loss is - sum_c t_c log p_c, and s_x their
sum. Positive: without the row the query's loss would be higher, to first order. In a minimum of mean loss +
lambda/2 |W|^2 the score is the derivative of retraining. The model meant is the finished one: the last of the
checkpoints, of each run; several runs are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from headwater.errors import UsageError
from headwater.methods.last_layer import LastLayer, Share, errors_of, last_of_each_run, with_bias
from headwater.methods.method import CheckpointOptions, Question
from headwater.methods.parts import RepresentationBlock, RepresentationPart
from headwater.methods.softmax_curvature import Curvature
from headwater.runs import Classification

Solver = Literal["auto", "cholesky", "cg"]
MOST_DENSE = 4096  # weights whose Hessian is formed: 128 MiB in float64
RELATIVE = 0.1  # of the mean diagonal, as in DataInf and EK-FAC


@dataclass(frozen=True)
class InfluenceLast(CheckpointOptions):
    """Options of influence functions on the last layer."""

    damping: float | None = field(
        default=None,
        metadata={"help": "lambda, added to the Hessian's diagonal; None: a tenth of the diagonal's mean."},
    )
    solver: Solver = field(
        default="auto",
        metadata={"help": f"cholesky, cg (conjugate gradients), or auto: cholesky up to {MOST_DENSE:,} weights."},
    )

    def __post_init__(self) -> None:
        if self.damping is not None and not 0 < self.damping < float("inf"):
            raise UsageError(f"damping must be above 0 (the Hessian alone has no inverse); it is {self.damping}.")
        if self.solver not in get_args(Solver):
            raise UsageError(f"solver must be auto, cholesky or cg; it is {self.solver!r}.")


def prepare(question: Question, options: InfluenceLast) -> LastLayer:
    """Solve for every query. Raises UsageError where the curvature of the task's loss is not known."""
    scales = loss_weights(question)
    parts = last_of_each_run(question.representations(options.checkpoints))
    return LastLayer([_share(part, scales, options, 1 / len(parts)) for part in parts])


def loss_weights(question: Question) -> Float64[np.ndarray, "rows"]:
    """Return s_x of every row, by its class weight and the label smoothing.

    Raises UsageError for a loss of the user's own.
    """
    task, config = question.run.task, question.run.checkpoints[-1].config
    if not isinstance(task, Classification):
        raise UsageError(f"influence-last knows the curvature of cross entropy alone; the run's task is {task}.")
    weights = np.ones(int(config.num_labels or 0))
    if task.class_weights is not None:
        numbers = task.targets(list(task.class_weights), config, where="class_weights")
        weights[numbers] = list(task.class_weights.values())
    smoothed = task.label_smoothing
    own = weights[np.asarray(question.run.targets)]
    scales: Float64[np.ndarray, "rows"] = (1 - smoothed) * own + smoothed * weights.mean()
    return scales


def _share(
    part: RepresentationPart, scales: Float64[np.ndarray, "rows"], options: InfluenceLast, weight: float
) -> Share:
    curvature = Curvature(part, torch.from_numpy(scales))
    diagonal = curvature.diagonal()
    damping = RELATIVE * float(diagonal.mean()) if options.damping is None else options.damping
    if damping == 0:
        raise UsageError(f"{part.checkpoint.name}: the loss has no curvature in the last layer; give a damping.")
    gradients = errors_of(part.queries)[:, :, None] * with_bias(part, part.queries)[:, None, :]
    dense = options.solver == "cholesky" or (options.solver == "auto" and diagonal.numel() <= MOST_DENSE)
    solved = curvature.solve(gradients, damping) if dense else curvature.iterate(gradients, damping, diagonal)

    def sides(block: RepresentationBlock) -> tuple[Float64[Tensor, "n j"], Float64[Tensor, "n c"]]:
        return with_bias(part, block), errors_of(block)

    return Share(part, weight, solved / part.rows, sides)
