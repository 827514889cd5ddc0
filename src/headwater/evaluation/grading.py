"""The columns that come of retraining: as many units of each metric as were finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from headwater.errors import HeadwaterError
from headwater.evaluation.ceiling import ceiling
from headwater.evaluation.columns import ALL, Column, Graded, Metric, Need, empty, graded, result
from headwater.evaluation.evaluation import Used
from headwater.evaluation.filtered import filter_columns
from headwater.evaluation.grouped import groups_column, groups_of
from headwater.evaluation.metrics.bootstrap import interval
from headwater.evaluation.metrics.lds import lds, noise_corrected
from headwater.evaluation.plan import Removals, Wish
from headwater.evaluation.removals import (
    Curves,
    Seen,
    deletion_columns,
    leave_one_out_column,
    qld_column,
    rows_left_out,
)
from headwater.evaluation.retraining import Retraining
from headwater.evaluation.scoring import Scored
from headwater.evaluation.settings import EvaluateSettings
from headwater.evaluation.worded import all_cuts, word_columns

_FEW = 30  # subsets; of fewer, a correlation is mostly luck
_DRAWN = "Only {} subsets: others would give other values, and the interval, drawn over queries, does not say how far."


def retrained_columns(
    retraining: Retraining,
    scored: Sequence[Scored],
    removals: Mapping[str, Removals[Any]],
    wishes: Sequence[Wish],
    units: Mapping[str, int],
) -> tuple[list[Graded], Curves, list[Used], int]:
    """The columns of what was retrained, in as many units as were finished."""
    made: list[Graded] = []
    curves: Curves = {}
    used: list[Used] = []
    retrains = 0
    seen = {need: retraining.seen(need) for need in retraining.removing}
    sets: set[tuple[Need, Any]] = set()
    seeds = len(retraining.seeds)
    for metric, wish in zip(retraining.metrics, wishes, strict=True):
        if metric.need == "subsets":
            done = min(units[metric.name], retraining.done_subsets())
            retrains += seeds * done
            needed = seeds * done
            made += _lds_columns(retraining, scored, done)
        else:
            mine_seen = seen[metric.need]
            done = min(units[metric.name], removals[metric.name].finished(set(mine_seen.sets)))
            mine = removals[metric.name].first(done)
            sets |= {(metric.need, each) for each in mine}
            needed = seeds * len(mine)
            columns, drawn = _removal_columns(metric, retraining, scored, mine_seen, done)
            made, curves = [*made, *columns], {**curves, **drawn}
        used.append(Used(metric.name, metric.unit, wish.most, done, needed))
    return made, curves, used, retrains + seeds * len(sets)


def _removal_columns(
    metric: Metric, retraining: Retraining, scored: Sequence[Scored], seen: Seen, done: int
) -> tuple[list[Graded], Curves]:
    settings = retraining.settings
    if done < (1 if metric.least == ALL else metric.least):
        column = Column(metric.name, metric.name, "", seen.protocol, metric.summary)
        return [empty(column, scored, f"too few {metric.unit} were finished in the time there was ({done}).")], {}
    if metric.name == "deletion":
        return deletion_columns(scored, seen, done, settings)
    if metric.name == "qld":
        return [qld_column(scored, seen, done, settings)], {}
    if metric.name == "filtering":
        return filter_columns(scored, seen, done, settings), {}
    if metric.name == "word-deletion":
        return word_columns(scored, all_cuts(retraining.asked, scored, settings), seen, done, settings)
    if metric.name == "groups":
        groups = groups_of(retraining.asked.run.corpus, str(settings.group_column), seed=settings.seed)
        return [groups_column(scored, seen, groups[:done], settings)], {}
    return [leave_one_out_column(scored, seen, rows_left_out(retraining.rows, settings)[:done], settings)], {}


def _lds_columns(retraining: Retraining, scored: Sequence[Scored], done: int) -> list[Graded]:
    """LDS on the first `done` subsets, its ceiling, and the value without the noise of retraining."""
    settings, bank = retraining.settings, retraining.drawn
    seeds = len(retraining.seeds)
    protocol = f"{bank.protocol}; {done:,} subsets, {seeds} seed{'s' if seeds > 1 else ''} each; {settings.measure}"
    about = "rank correlation of a subset's summed scores with what retraining on it gives, mean over queries"
    column = Column("lds", "lds", "higher", protocol, about)
    if done < 3:
        return [empty(column, scored, f"too few subsets were finished in the time there was ({done}).")]
    found = bank.results(seeds=retraining.seeds)
    names = {"loss": found.losses, "margin": found.margins, "probability": found.probabilities}
    outputs, masks = names[settings.measure][:done], found.masks[:done]
    try:
        limit = ceiling(outputs, seed=settings.seed) if seeds > 1 else None
        column = replace(column, ceiling=None if limit is None else limit.to_dict())
        notes = [] if done >= _FEW else [_DRAWN.format(done)]
        made = graded(
            column,
            scored,
            lambda one: lds(one.scores, masks, outputs, measure=settings.measure),
            seed=settings.seed,
            notes=notes,
        )
    except HeadwaterError as error:
        return [empty(column, scored, str(error))]
    if limit is None:
        return [made]
    highest = limit.mean.value
    return [made, _corrected(made, scored, highest, settings)]


def _corrected(made: Graded, scored: Sequence[Scored], highest: float, settings: EvaluateSettings) -> Graded:
    about = f"lds divided by the noise ceiling {highest:.3g}: 1 is all that this bank lets anyone reach"
    column = Column("lds corrected", "lds", "higher", made.column.protocol, about)
    notes = [] if highest > 0 else ["These retrainings agree on nothing: their noise is all there is."]
    results = []
    for one in scored:
        values = made.values[one.candidate.label]
        known = np.array([np.nan if value is None else value for value in values])
        plain = interval(known, seed=settings.seed)
        results.append(result(column, one, noise_corrected(plain, highest), notes))
    return Graded(column, tuple(results))
