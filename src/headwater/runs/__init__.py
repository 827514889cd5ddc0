"""Runs: what was trained. Corpus, task, ordered checkpoints with their weights, and the recipe."""

from headwater.runs.checkpoint import Checkpoint
from headwater.runs.classification import Classification
from headwater.runs.corpus import Columns, Corpus, Example, Label
from headwater.runs.recipe import Recipe
from headwater.runs.recorder import Recorder
from headwater.runs.run import Run
from headwater.runs.task import Encoding, Task, task_from_json

__all__ = [
    "Checkpoint",
    "Classification",
    "Columns",
    "Corpus",
    "Encoding",
    "Example",
    "Label",
    "Recipe",
    "Recorder",
    "Run",
    "Task",
    "task_from_json",
]
