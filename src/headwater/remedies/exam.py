"""What the models of a proof are asked about its test rows, and what their answers come to: labels, or texts.

An exam makes of each model one array, a line a test row, which `Bench` keeps: of labels the logits of the classes; of
texts the sum of the target tokens' losses, their number, and how many are the model's first choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32
from transformers import PreTrainedModel

from headwater.errors import DataError
from headwater.remedies.askable import some_askable
from headwater.remedies.differences import Told
from headwater.remedies.measure import CLASSES, TOKENS, Measure
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets, text_task
from headwater.training import Predictions, evaluate, predict

Answers = Float32[np.ndarray, "rows columns"]


@dataclass(frozen=True)
class Query:
    """A test row under every arm: what most seeds said, and the mean probability of the true label.

    Of a language model `label` is the completion ("" where the whole text counts), `said` how many of its tokens are
    first choices, `probability` exp(-loss a token) by the seeds' mean loss, `right` whether all are first choices.
    """

    row: int
    text: str
    label: str
    said: dict[str, str]
    probability: dict[str, float]
    right: dict[str, bool]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "row": self.row,
            "text": self.text,
            "label": self.label,
            "arms": {
                name: {"predicted": self.said[name], "probability": self.probability[name], "right": self.right[name]}
                for name in self.said
            },
        }


class Exam(Protocol):
    """One way to ask about the rows of `test`; of `unasked` rows (number: why) answers say nothing."""

    test: Corpus
    measure: Measure
    unasked: Mapping[int, str]

    def ask(self, model: PreTrainedModel) -> Answers:
        """One model's answers, in the order of the test rows."""

    def told(self, answers: Sequence[Answers]) -> Told:
        """The answers of one arm, one a seed."""

    def queries(self, answers: Mapping[str, Sequence[Answers]]) -> list[Query]:
        """Every test row under every arm."""


def exam_of(run: Run, test: Corpus) -> Exam:
    """The exam that suits the run's task.

    Raises DataError for test rows without what says what is right, or of which none can be asked.
    """
    if text_task(run.task) is None:
        return Labels(run, test)
    return Texts(run, test)


class Labels:
    """Asks for the labels of the test rows."""

    measure = CLASSES

    def __init__(self, run: Run, test: Corpus) -> None:
        if test.columns.label is None:
            raise DataError(f"{test.name}: test rows need labels: they say what is right.")
        self.run, self.test = run, test
        self.unasked = some_askable(run, test)
        self._targets = np.array(corpus_targets(run.task, test, run.checkpoints[-1].config), dtype=np.int64)
        self._names = tuple(run.id2label[number] for number in range(len(run.label2id)))

    def ask(self, model: PreTrainedModel) -> Answers:
        """The logits of the classes."""
        asked = _askable(self.test, self.unasked)
        found = predict(model, self.run.tokenizer, self.run.task, asked, show=False).logits
        return _spread(found, len(self.test), self.unasked)

    def told(self, answers: Sequence[Answers]) -> Told:
        """Which labels are right, and their losses."""
        said = self._read(answers)
        return Told(np.stack([each.correct for each in said]), np.stack([each.losses for each in said]))

    def queries(self, answers: Mapping[str, Sequence[Answers]]) -> list[Query]:
        """The label said by most seeds; of equals the one said first."""
        read = {name: self._read(each) for name, each in answers.items()}
        words = {name: [each.predicted for each in said] for name, said in read.items()}
        chance = {name: np.mean([each.true_probabilities for each in said], axis=0) for name, said in read.items()}
        right = {name: self.told(each).mostly_right for name, each in answers.items()}
        made = []
        for row in self.test:
            text = str(row.text) if row.text_pair is None else f"{row.text} / {row.text_pair}"
            at = row.row
            made.append(
                Query(
                    at,
                    text,
                    self._names[self._targets[at]],
                    {name: _most([seed[at] for seed in seeds]) for name, seeds in words.items()},
                    {name: float(values[at]) for name, values in chance.items()},
                    {name: bool(values[at]) for name, values in right.items()},
                )
            )
        return made

    def _read(self, answers: Sequence[Answers]) -> list[Predictions]:
        return [Predictions(logits, self._names, self._targets) for logits in answers]


class Texts:
    """Asks for the target tokens of the test rows: of completions, or of whole texts, as the task has it."""

    measure = TOKENS

    def __init__(self, run: Run, test: Corpus) -> None:
        if run.corpus.columns.label is not None and test.columns.label is None:
            raise DataError(
                f"{test.name}: test rows need completions, as the training rows have: they say what is right."
            )
        corpus_targets(run.task, test, run.checkpoints[-1].config)
        self.run, self.test = run, test
        self.unasked = some_askable(run, test)

    def ask(self, model: PreTrainedModel) -> Answers:
        """Sum of the losses in nats, target tokens, first choices among them."""
        asked = _askable(self.test, self.unasked)
        found = evaluate(model, self.run.tokenizer, self.run.task, asked, show=False)
        answers = np.stack([found.sums, found.tokens, found.first], axis=1).astype(np.float32)
        return _spread(answers, len(self.test), self.unasked)

    def told(self, answers: Sequence[Answers]) -> Told:
        """The share of first choices, and the loss a token, of each row."""
        stacked = np.stack(answers).astype(np.float64)
        tokens = np.maximum(stacked[0, :, 1], 1)  # a row that is not asked has none
        return Told(stacked[:, :, 2] / tokens, stacked[:, :, 0] / tokens, tokens.astype(np.int64))

    def queries(self, answers: Mapping[str, Sequence[Answers]]) -> list[Query]:
        """First choices by the seeds' mean."""
        told = {name: self.told(each) for name, each in answers.items()}
        losses = {name: each.losses.mean(axis=0) for name, each in told.items()}
        shares = {name: each.correct.mean(axis=0) for name, each in told.items()}
        right = {name: each.mostly_right for name, each in told.items()}
        counts = next(iter(told.values())).tokens
        assert counts is not None
        made = []
        for row in self.test:
            shown, at = self.run.task.shown(row), row.row
            made.append(
                Query(
                    at,
                    str(shown.text),
                    "" if shown.text_pair is None else shown.text_pair,
                    {name: f"{round(share[at] * counts[at])} of {counts[at]}" for name, share in shares.items()},
                    {name: float(np.exp(-loss[at])) for name, loss in losses.items()},
                    {name: bool(values[at]) for name, values in right.items()},
                )
            )
        return made


def _askable(test: Corpus, unasked: Mapping[int, str]) -> Corpus:
    return test.take([row for row in range(len(test)) if row not in unasked]) if unasked else test


def _spread(answers: Answers, rows: int, unasked: Mapping[int, str]) -> Answers:
    """A line a test row, zeros for those that are not asked."""
    if not unasked:
        return answers
    found = np.zeros((rows, answers.shape[1]), dtype=np.float32)
    found[[row for row in range(rows) if row not in unasked]] = answers
    return found


def _most(words: Sequence[str]) -> str:
    """The word said most often; of equals the one said first."""
    return max(words, key=lambda word: (words.count(word), -words.index(word)))
