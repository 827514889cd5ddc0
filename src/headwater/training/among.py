"""Which of a few completions a language model would give: a text's answer, where the answers are known.

    logit of a completion = log p(completion | prompt) = - sum over its tokens of their losses

Over a classifier's completions (" positive", " negative") these stand where a classifier's logits stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from headwater.errors import DataError, UsageError
from headwater.progress import progress_bar
from headwater.runs.corpus import Corpus
from headwater.runs.task import Task, text_task
from headwater.training.evaluate import evaluate
from headwater.training.predict import Predictions


def predict_among(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    corpus: Corpus,
    completions: Sequence[str],
    *,
    show: bool | None = None,
) -> Predictions:
    """Ask a language model which of `completions` is likeliest after each prompt; ties go to the first.

    A prompt is not cut at the training's length: a completion that were cut off could not be judged. Raises UsageError
    for a task with classes; DataError for a corpus with a completion that is none of these, or a prompt that leaves
    the model no room.
    """
    language = text_task(task)
    if language is None:
        raise UsageError(f"a {task.kind} task predicts classes. See headwater.training.predict.")
    whole = cast(Task, replace(cast(Any, language), max_length=None)).with_limit(tokenizer, model.config)
    logits = np.zeros((len(corpus), len(completions)), dtype=np.float32)
    with progress_bar("answering", len(completions), unit="answers", show=show) as advance:
        for number, completion in enumerate(completions):
            said = evaluate(model, tokenizer, whole, _with_completion(corpus, completion), show=False)
            logits[:, number] = -said.sums
            advance(1)
    return Predictions(logits, tuple(completions), _targets(corpus, completions))


def _with_completion(corpus: Corpus, completion: str) -> Corpus:
    """The same prompts, all with one completion."""
    said = pa.array([completion] * len(corpus), pa.string())
    name = corpus.columns.label or "completion"
    table = corpus.table.drop_columns([name]) if name in corpus.table.column_names else corpus.table
    return Corpus(table.append_column(name, said), replace(corpus.columns, label=name), corpus.name)


def _targets(corpus: Corpus, completions: Sequence[str]) -> np.ndarray | None:
    if corpus.columns.label is None:
        return None
    number = {completion: place for place, completion in enumerate(completions)}
    given = corpus.table.column(corpus.columns.label).to_pylist()
    for row, completion in enumerate(given):
        if completion not in number:
            what = f"{completion!r} is none of the {len(completions)} completions asked about."
            raise DataError.at(corpus.name, what, row=row + 1, column=corpus.columns.label)
    return np.array([number[completion] for completion in given], dtype=np.int64)
