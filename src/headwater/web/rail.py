"""What stands beside an answer: the words over all rows, score against rank, and how far to trust the method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from jaxtyping import Float32

from headwater.attribution.query_words import query_words
from headwater.runs import Run
from headwater.web.errors import REFUSED
from headwater.web.state import Bench
from headwater.web.waiting import PatientRoute
from headwater.web.why import Asked, chosen_method, must_ask, queries_of, scores_of

router = APIRouter(route_class=PatientRoute)

POINTS = 60  # of the curve


@router.get("/api/why/rail", tags=["why"], responses=REFUSED)
async def rail(bench: Bench, asked: Annotated[Asked, Query()]) -> Mapping[str, Any]:
    """Tell of an answer: scores by rank, the words of the query over all rows, checkpoints, and the method's grades."""
    must_ask(asked)
    method = await chosen_method(bench, asked)
    scores = await scores_of(bench, asked, method)
    words: list[dict[str, Any]] = []
    special = None
    if method == "tracin-we" and asked.start is None:  # of options, sums over all rows know nothing
        queries, label = queries_of(bench, asked)
        found = await bench.once(("query words", asked.question()), lambda: query_words(bench.index, queries, label))
        words, special = [vars(each) for each in found.words], found.special
    run = bench.index.run
    return {
        "method": method,
        "curve": curve(scores),
        "positive": int((scores > 0).sum()),
        "negative": int((scores < 0).sum()),
        "rows": len(scores),
        "words": words,
        "special_tokens": special,
        "checkpoints": [{"name": each.name, "weight": each.weight} for each in run.checkpoints],
        "grades": grades_of(run, method),
    }


def curve(scores: Float32[np.ndarray, " rows"]) -> list[tuple[int, float]]:
    """Return rank (from 1, the highest score first) and score at some ranks, closer together at both ends."""
    ordered = np.sort(scores.astype(np.float64))[::-1]
    half = np.unique(np.geomspace(1, max(len(ordered) / 2, 1), POINTS // 2).astype(int))
    ranks = np.unique(np.concatenate([half, len(ordered) + 1 - half]))
    return [(int(rank), float(ordered[rank - 1])) for rank in ranks if 1 <= rank <= len(ordered)]


def grades_of(run: Run, method: str) -> list[dict[str, Any]]:
    """Return what `headwater evaluate RUN --out RUN/evaluation` found of a method; nothing where nobody asked."""
    path = run.folder / "evaluation" / "evaluation.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        columns = {each["name"]: each for each in saved["columns"]}
        return [
            {
                "metric": each["metric"],
                "value": each["value"],
                "low": each["low"],
                "high": each["high"],
                "ceiling": (columns[each["metric"]].get("ceiling") or {}).get("highest"),
            }
            for each in saved["results"]
            if each["method"] == method and each["metric"] in columns
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
