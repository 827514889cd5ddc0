"""Cosine of representations: which rows look like the query to the model (RepSim; Hanawa et al. 2021, 2006.04528).

    score(q, x) = < a_q, a_x > / (|a_q| |a_x|)

a is the input of the last layer (of a language model its mean over the predicted places). Labels play no part, so a
positive score is likeness, not help: a baseline that other methods must beat. The model meant is the finished one: the
last of the checkpoints, of each run; several runs are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from headwater.methods.last_layer import LastLayer, Share, last_of_each_run
from headwater.methods.method import CheckpointOptions, Question
from headwater.methods.parts import RepresentationBlock


@dataclass(frozen=True)
class RepresentationCosine(CheckpointOptions):
    """Options of the cosine of representations."""


def prepare(question: Question, options: RepresentationCosine) -> LastLayer:
    """Bring the queries' features to length 1; the rows' are as they are read."""
    parts = last_of_each_run(question.representations(options.checkpoints))
    return LastLayer([Share(part, 1 / len(parts), _unit(part.queries)[:, None, :], _sides) for part in parts])


def _sides(block: RepresentationBlock) -> tuple[Float64[Tensor, "n d"], Float64[Tensor, "n 1"]]:
    unit = _unit(block)
    return unit, unit.new_ones(len(unit), 1)


def _unit(block: RepresentationBlock) -> Float64[Tensor, "n d"]:
    """Features of length 1; those that are all 0 stay so."""
    return torch.nn.functional.normalize(block.features.double(), dim=1, eps=1e-300)
