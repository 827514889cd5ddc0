"""Headwater: from a prediction to the training examples, and the words in them, that taught it.

import headwater as hw

run = hw.Run.open("runs/agnews")            # or a Trainer folder: Run.open(folder, corpus=..., task=...)
index = hw.Index.build(run)                 # resumes, shows progress; hw.Index.open(path)
why = index.query(["Oil prices climb again"], labels=["Business"], k=10)
why[0].proponents[0].example.text
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.attribution.attributions import Attribution as Attribution
    from headwater.attribution.attributions import Attributions as Attributions
    from headwater.attribution.cancellation import cancellation as cancellation
    from headwater.attribution.index import Index as Index
    from headwater.attribution.where import Where as Where
    from headwater.errors import HeadwaterError as HeadwaterError
    from headwater.errors import HeadwaterWarning as HeadwaterWarning
    from headwater.evaluation.evaluate import evaluate as evaluate
    from headwater.evaluation.evaluation import Evaluation as Evaluation
    from headwater.gradients.layers import Projector as Projector
    from headwater.runs import CausalLM as CausalLM
    from headwater.runs import Checkpoint as Checkpoint
    from headwater.runs import Classification as Classification
    from headwater.runs import Columns as Columns
    from headwater.runs import Corpus as Corpus
    from headwater.runs import CustomLoss as CustomLoss
    from headwater.runs import MaskedLM as MaskedLM
    from headwater.runs import Recorder as Recorder
    from headwater.runs import Run as Run
    from headwater.runs import Seq2Seq as Seq2Seq

__version__ = "0.1.0"

# Loaded when first used: importing torch and transformers takes seconds, and `headwater --help` needs neither.
_WHERE = {
    "Attribution": "headwater.attribution.attributions",
    "Attributions": "headwater.attribution.attributions",
    "Checkpoint": "headwater.runs",
    "Classification": "headwater.runs",
    "Columns": "headwater.runs",
    "Corpus": "headwater.runs",
    "CausalLM": "headwater.runs",
    "CustomLoss": "headwater.runs",
    "MaskedLM": "headwater.runs",
    "Seq2Seq": "headwater.runs",
    "HeadwaterError": "headwater.errors",
    "HeadwaterWarning": "headwater.errors",
    "Evaluation": "headwater.evaluation.evaluation",
    "Index": "headwater.attribution.index",
    "Projector": "headwater.gradients.layers",
    "Recorder": "headwater.runs",
    "Run": "headwater.runs",
    "Where": "headwater.attribution.where",
    "cancellation": "headwater.attribution.cancellation",
    "evaluate": "headwater.evaluation.evaluate",
}

__all__ = [
    "Attribution",
    "Attributions",
    "CausalLM",
    "Checkpoint",
    "Classification",
    "Columns",
    "Corpus",
    "CustomLoss",
    "Evaluation",
    "HeadwaterError",
    "HeadwaterWarning",
    "Index",
    "MaskedLM",
    "Projector",
    "Recorder",
    "Run",
    "Seq2Seq",
    "Where",
    "cancellation",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'headwater' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
