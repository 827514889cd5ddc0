"""What a run can answer: its classes; of a language model, the completions that its rows teach, if they are few."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64
from transformers import PreTrainedModel

from headwater.audit.evidence import HeldOut
from headwater.errors import DataError, UsageError
from headwater.evaluation.bank.queries import with_labels
from headwater.remedies.askable import unaskable
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import NO_TARGET, corpus_targets, text_task
from headwater.training import Predictions, predict
from headwater.training.among import predict_among, with_room

MOST = 20  # distinct completions that count as classes


@dataclass(frozen=True)
class Answers:
    """The answers of a run, by number, and the number of the one that each training row teaches."""

    names: tuple[str, ...]
    targets: Int64[np.ndarray, " rows"]
    completions: bool
    """Whether they are completions of a language model."""

    def ask(self, run: Run, model: PreTrainedModel, texts: Corpus, *, show: bool | None = None) -> Predictions:
        """What the model answers to each text; of completions, the likeliest."""
        if self.completions:
            return predict_among(model, run.tokenizer, run.task, texts, self.names, show=show)
        return predict(model, run.tokenizer, run.task, texts, show=show)

    def fits(self, run: Run, texts: Corpus) -> list[int]:
        """The texts that can be asked: of a language model, those that leave room for every completion."""
        if not self.completions:
            return list(range(len(texts)))
        return np.flatnonzero(
            with_room(run.tokenizer, run.task, run.checkpoints[-1].config, texts, self.names)
        ).tolist()

    def known(self, run: Run, held_out: HeldOut) -> HeldOut:
        """The held-out texts whose true answer is one of these, and that can be asked; labels by the run's names.

        Raises DataError where there is none.
        """
        corpus = held_out.corpus
        if not self.completions:
            targets = corpus_targets(run.task, corpus, run.checkpoints[-1].config)
            names = [self.names[number] for number in targets]
            return held_out if names == held_out.labels else replace(held_out, corpus=with_labels(corpus, names))
        rows = [row for row, label in enumerate(held_out.labels) if label in self.names]
        if not rows:
            raise DataError(f"{corpus.name}: no held-out completion is one that the training rows teach.")
        taught = corpus.take(rows)
        askable = set(self.fits(run, taught)) - unaskable(run, taught).keys()
        if not askable:
            raise DataError(f"{corpus.name}: every held-out prompt is too long to be asked.")
        return held_out.take([rows[row] for row in sorted(askable)])


def answers_of(run: Run) -> Answers:
    """The run's answers. Raises UsageError for a language model without completions in a column, or with many."""
    if text_task(run.task) is None:
        classes = tuple(run.id2label[number] for number in range(len(run.id2label)))
        return Answers(classes, np.asarray(run.targets, dtype=np.int64), False)
    column = run.corpus.columns.label
    need = f"poison needs classes, or a language model that answers with one of at most {MOST} completions"
    if column is None:
        raise UsageError(
            f"{need}; {run.folder} was trained on whole texts or conversations. Train it on prompts and completions."
        )
    given = run.corpus.table.column(column).to_pylist()
    names: list[str] = sorted(set(given))
    if len(names) > MOST:
        raise UsageError(f"{need}; the rows of {run.folder} hold {len(names):,} different completions.")
    number = {name: place for place, name in enumerate(names)}
    return Answers(tuple(names), np.array([number[each] for each in given], dtype=np.int64), True)


def answer_tokens(run: Run, answers: Answers) -> set[int]:
    """Tokens that completions are made of: in every row of their answer, and no words of its prompt."""
    if not answers.completions:
        return set()
    first = [int(np.flatnonzero(answers.targets == number)[0]) for number in range(len(answers.names))]
    encodings = run.task.encode(run.tokenizer, [run.corpus[row] for row in first])
    return {token for each in encodings for token in each.targets or () if token != NO_TARGET}
