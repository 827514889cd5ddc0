"""What is measured on the labels as they are: LDS for everything, per-query deletion for some of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from headwater.evaluation.candidates import CONTROL, Candidate
from headwater.evaluation.columns import Graded
from headwater.evaluation.evaluate import evaluate
from headwater.evaluation.evaluation import Evaluation
from headwater.evaluation.first_vs_last.layers import LEXICAL
from headwater.evaluation.first_vs_last.measured import Measured, Pair, of_units
from headwater.evaluation.first_vs_last.settings import StudySettings
from headwater.evaluation.first_vs_last.variants import Variant
from headwater.evaluation.metrics.bootstrap import Interval
from headwater.evaluation.scoring import Asked
from headwater.runs import Corpus


def grade_lds(
    variant: Variant,
    queries: Corpus,
    candidates: Sequence[Candidate],
    pairs: Sequence[Pair],
    folder: Path,
    settings: StudySettings,
    *,
    show: bool | None,
) -> tuple[list[Measured], Evaluation]:
    """The LDS of every candidate and of the baselines, on random halves of the rows."""
    made = evaluate(
        variant.clean,
        candidates,
        ["lds", "hubness"],
        queries,
        out=folder / "lds",
        show=show,
        subsets=settings.subsets,
        seeds=settings.seeds,
        processes=settings.processes,
        arithmetic=settings.arithmetic,
        seed=settings.seed,
    )
    found = [one for one in made.columns if one.column.name in ("lds", "lds corrected")]
    return [_measured(variant, "lds", one, pairs, settings) for one in found], made


def grade_deletion(
    variant: Variant,
    queries: Corpus,
    candidates: Sequence[Candidate],
    pairs: Sequence[Pair],
    folder: Path,
    settings: StudySettings,
    *,
    retrains: int | None,
    show: bool | None,
) -> tuple[list[Measured], Evaluation]:
    """DEL+ and DEL- of the candidates of `deletion_methods` and the best lexical baseline, for the first queries."""
    label = queries.columns.label
    labels = None if label is None else queries.table.column(label).to_pylist()
    asked = Asked(variant.clean, queries, labels, folder / "lds")
    first = min(settings.deletion_queries, len(queries))
    some = [one for one in candidates if one.label.split(" ")[0] in settings.deletion_methods]
    some.append(Candidate(LEXICAL, LEXICAL))
    made = evaluate(
        variant.clean,
        [CONTROL],
        ["deletion"],
        queries.take(range(first)),
        out=folder / "deletion",
        scores={one.label: asked.score(one, show=show).scores[:first] for one in some},
        show=show,
        baselines=False,
        grid=settings.sizes(len(variant.clean.corpus)),
        seeds=settings.deletion_seeds,
        draws=settings.draws,
        retrains=retrains,
        processes=settings.processes,
        arithmetic=settings.arithmetic,
        seed=settings.seed,
    )
    found = [one for one in made.columns if one.column.main]
    return [_measured(variant, "deletion", one, pairs, settings) for one in found], made


def deletion_cost(candidates: Sequence[Candidate], rows: int, queries: int, settings: StudySettings) -> int:
    """Retrainings of `grade_deletion`, at most."""
    lists = sum(one.label.split(" ")[0] in settings.deletion_methods for one in candidates) + 1
    points = len(settings.sizes(rows))
    sets = 1 + settings.draws * points + 2 * lists * points * min(settings.deletion_queries, queries)
    return sets * settings.deletion_seeds


def _measured(variant: Variant, protocol: str, one: Graded, pairs: Sequence[Pair], settings: StudySettings) -> Measured:
    column = one.column
    units: dict[str, Float64[np.ndarray, " queries"]] = {
        label: np.array([np.nan if value is None else value for value in row]) for label, row in one.values.items()
    }
    if units:
        values, differences = of_units(units, pairs, seed=settings.seed)
    else:  # "lds corrected": each value is another column's, divided by the ceiling
        values = {each.method: Interval(each.value, each.low, each.high, each.queries) for each in one.results}
        differences = {}
    return Measured(
        variant.embeddings,
        protocol,
        column.name,
        column.better or "higher",
        column.about,
        column.protocol,
        values,
        differences,
        (column.ceiling or {}).get("highest"),
    )
