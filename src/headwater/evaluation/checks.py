"""What must fit before an evaluation begins: found at once, what else would be found after much work."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.errors import UsageError
from headwater.evaluation.candidates import Candidate
from headwater.evaluation.columns import RETRAINED, Metric
from headwater.evaluation.facts import right_rows
from headwater.evaluation.grouped import groups_of
from headwater.evaluation.scoring import Asked
from headwater.evaluation.settings import EvaluateSettings
from headwater.evaluation.unretrained import planted_labels
from headwater.evaluation.worded import check_words
from headwater.runs import Run, text_task


def check(
    names: Sequence[Metric],
    asked: Asked,
    candidates: Sequence[Candidate],
    others: Sequence[Run],
    settings: EvaluateSettings,
) -> None:
    """Raises UsageError, DataError or RunError where a metric lacks something."""
    needs = {metric.need for metric in names}
    if "labels" in needs:
        column = _named(names, "labels", settings.noise_column, "that says which labels are wrong (noise_column)")
        planted_labels(asked.run.corpus, column)
    if "runs" in needs and not others:
        raise UsageError("stability: give other runs of the same training, with other seeds (others).")
    for other in others:
        if other.corpus.fingerprint != asked.run.corpus.fingerprint:
            raise UsageError(f"{other.folder}: was trained on other rows than {asked.run.folder}.")
    if needs & {*RETRAINED, "steps"}:
        asked.run.need_recipe()
    if "facts" in needs:
        column = _named(names, "facts", settings.fact_column, "of corpus and queries that names the fact (fact_column)")
        right_rows(asked.run.corpus, asked.queries, column)
    if "words" in needs:
        check_words(asked, candidates)
    for metric in names:
        _check_removals(metric.name, asked, settings)


def _check_removals(name: str, asked: Asked, settings: EvaluateSettings) -> None:
    rows = len(asked.run.corpus)
    if name == "deletion":
        sizes = settings.sizes(rows)
        if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] >= rows:
            raise UsageError(f"grid must ascend from at least 1 to less than {rows:,}, not {sizes}.")
    if name == "filtering":
        if text_task(asked.run.task) is not None:
            raise UsageError(f"filtering: counts right answers, which needs classes; the task of {asked.run.folder} is "
                             f"{asked.run.task.kind}.")  # fmt: skip
        settings.filtered(rows)
    if name == "groups":
        if settings.group_column is None:
            raise UsageError("groups: name the column of the corpus that makes the groups (group_column).")
        groups_of(asked.run.corpus, settings.group_column, seed=settings.seed)


def _named(names: Sequence[Metric], need: str, column: str | None, what: str) -> str:
    if column is None:
        wants = ", ".join(metric.name for metric in names if metric.need == need)
        raise UsageError(f"{wants}: name the column {what}.")
    return column
