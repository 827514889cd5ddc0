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
from jaxtyping import Bool, Int64
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from headwater.errors import DataError, UsageError
from headwater.progress import progress_bar
from headwater.runs.causal_lm import CausalLM
from headwater.runs.corpus import Corpus
from headwater.runs.task import Task, length_limit, text_task
from headwater.training.evaluate import evaluate
from headwater.training.predict import Predictions

_ENDLESS = 1 << 30  # tokens
_SEAM = 4  # tokens by which a prompt and a completion may be more together than apart


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
    the model no room for a whole completion.
    """
    language = text_task(task)
    if language is None:
        raise UsageError(f"a {task.kind} task predicts classes. See headwater.training.predict.")
    whole = cast(Task, replace(cast(Any, language), max_length=None)).with_limit(tokenizer, model.config)
    lacking = np.flatnonzero(~with_room(tokenizer, task, model.config, corpus, completions))
    if len(lacking):
        what = f"its prompt leaves the model ({whole.max_length} tokens) no room for each of the completions."
        raise DataError.at(corpus.name, what, row=int(lacking[0]) + 1)
    logits = np.zeros((len(corpus), len(completions)), dtype=np.float32)
    with progress_bar("answering", len(completions), unit="answers", show=show) as advance:
        for number, completion in enumerate(completions):
            said = evaluate(model, tokenizer, whole, _with_completion(corpus, completion), show=False)
            logits[:, number] = -said.sums
            advance(1)
    return Predictions(logits, tuple(completions), _targets(corpus, completions))


def with_room(
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    config: PreTrainedConfig,
    corpus: Corpus,
    completions: Sequence[str],
) -> Bool[np.ndarray, " rows"]:
    """Which prompts leave the model room for each of `completions` as a whole."""
    language = text_task(task)
    limit = length_limit(tokenizer, config)
    found = np.ones(len(corpus), dtype=np.bool_)
    if not isinstance(language, CausalLM) or limit is None:
        return found  # prompt and completion do not share the model's places, or there is no end of them

    def lengths(texts: Corpus, completion: str) -> Int64[np.ndarray, " rows"]:
        endless = replace(language, max_length=_ENDLESS)
        encodings = endless.encode(tokenizer, list(_with_completion(texts, completion)))
        return np.array([len(each.input_ids) for each in encodings], dtype=np.int64)

    most = max(len(tokenizer(completion)["input_ids"]) for completion in completions) + _SEAM
    doubtful = np.flatnonzero(lengths(corpus, completions[0]) + most > limit)
    if len(doubtful):
        texts = corpus.take(doubtful.tolist())
        found[doubtful] = np.max([lengths(texts, completion) for completion in completions], axis=0) <= limit
    return found


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
