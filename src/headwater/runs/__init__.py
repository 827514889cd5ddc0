"""Runs: what was trained. Corpus, task, ordered checkpoints with their weights, and the recipe."""

from headwater.runs.causal_lm import CausalLM
from headwater.runs.checkpoint import Checkpoint
from headwater.runs.classification import Classification
from headwater.runs.corpus import Columns, Corpus, Example, Label
from headwater.runs.custom import CustomLoss
from headwater.runs.kinds import task_from_json
from headwater.runs.masked_lm import MaskedLM
from headwater.runs.recipe import Recipe
from headwater.runs.recorder import Recorder
from headwater.runs.run import Run
from headwater.runs.seq2seq import Seq2Seq
from headwater.runs.task import Encoding, Reply, Task, TextTask, corpus_targets, shown_texts, text_task

__all__ = [
    "CausalLM",
    "Checkpoint",
    "Classification",
    "Columns",
    "Corpus",
    "CustomLoss",
    "Encoding",
    "Example",
    "Label",
    "MaskedLM",
    "Recipe",
    "Recorder",
    "Reply",
    "Run",
    "Seq2Seq",
    "Task",
    "TextTask",
    "corpus_targets",
    "shown_texts",
    "task_from_json",
    "text_task",
]
