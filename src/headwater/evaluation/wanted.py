"""Which retrainings each metric wishes for: at most, before there are scores, and exactly, when there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headwater.evaluation.columns import Metric
from headwater.evaluation.filtered import filter_sets
from headwater.evaluation.grouped import group_sets, groups_of
from headwater.evaluation.plan import Removals
from headwater.evaluation.removals import removal_sets
from headwater.evaluation.scoring import Asked, Scored
from headwater.evaluation.settings import EvaluateSettings
from headwater.evaluation.worded import all_cuts, word_sets


def wanted(metric: Metric, asked: Asked, scored: Sequence[Scored], settings: EvaluateSettings) -> Removals[Any]:
    """The row sets that a metric needs, given every method's scores. Raises what the metrics raise."""
    if metric.name == "groups":
        return group_sets(asked.run.corpus, settings)
    if metric.name == "filtering":
        return filter_sets(scored, settings)
    if metric.name == "word-deletion":
        return word_sets(all_cuts(asked, scored, settings), len(asked.queries))
    return removal_sets(metric.name, scored, settings)


def most_sets(metric: Metric, asked: Asked, methods: int, settings: EvaluateSettings) -> tuple[int, int, int]:
    """Before there are scores: row sets needed in any case, at most so many a unit, and how many units there are."""
    rows, queries = len(asked.run.corpus), len(asked.queries)
    if metric.name == "leave-one-out":
        return 1, 1, min(rows, settings.rows_out)
    if metric.name == "groups":
        return 1, 1, len(groups_of(asked.run.corpus, str(settings.group_column), seed=settings.seed))
    if metric.name == "filtering":
        return 1 + settings.draws, 1, methods
    if metric.name == "word-deletion":
        return 1, 2 * methods * len(settings.words), queries
    if metric.name == "qld":
        return 1 + settings.draws, methods, queries
    points = len(settings.sizes(rows))
    return 1 + settings.draws * points, 2 * methods * points, queries
