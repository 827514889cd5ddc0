"""Why? The rows and words that taught the model one answer; for a held-out row, or for a text that the user types."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from headwater.attribution.attributions import Attributions
from headwater.attribution.render import render_page
from headwater.attribution.view import clean
from headwater.errors import DataError
from headwater.web.look import page
from headwater.web.state import Bench, Workbench

router = APIRouter()

_POLICY = re.compile(r'http-equiv=Content-Security-Policy content="([^"]+)"')


class Asked(BaseModel):
    """One question: a held-out row (from 0), or a text with the label that is to be explained."""

    model_config = {"extra": "forbid"}

    row: Annotated[int | None, Field(ge=0, le=1 << 53)] = None
    text: Annotated[str | None, Field(max_length=100_000)] = None
    text_pair: Annotated[str | None, Field(max_length=100_000)] = None
    label: Annotated[str | None, Field(max_length=100_000)] = None
    """What to explain of a typed text; if not given, what the model says."""
    explain: Literal["said", "label"] = "said"
    """Of a row: what the model said, or the label it should have said."""
    k: Annotated[int, Field(ge=1, le=100)] = 10


@router.get("/why", response_class=HTMLResponse, include_in_schema=False)
async def why(request: Request, bench: Bench, asked: Annotated[Asked, Query()]) -> HTMLResponse:
    """Show what taught the model its answer; without a question, a form to ask one."""
    if asked.row is None and not asked.text:
        return page(request, "why.html.j2", here="/why", labels=_labels(bench), pairs=_pairs(bench))
    found = await bench.worker.run(lambda: explain(bench, asked))
    drawn = render_page(found.to_dict(), title="Why?", k=asked.k)
    policy = _POLICY.search(drawn)
    assert policy is not None
    return HTMLResponse(drawn, headers={"Content-Security-Policy": policy[1]})


@router.get("/api/why", tags=["why"], responses={422: {"description": "What is wrong, and where"}})
async def explain_one(bench: Bench, asked: Annotated[Asked, Query()]) -> dict[str, Any]:
    """Explain one answer: what `headwater query --json` prints."""
    if asked.row is None and not asked.text:
        raise HTTPException(422, "Give a row, or a text.")
    found = await bench.worker.run(lambda: explain(bench, asked))
    cleaned: dict[str, Any] = clean(found.to_dict())
    return cleaned


def explain(bench: Workbench, asked: Asked) -> Attributions:
    """Ask the index. Raises DataError for a row that is not there or a label that the model does not know."""
    if asked.row is None:
        text = clean(asked.text)
        query = text if asked.text_pair is None else (text, clean(asked.text_pair))
        return bench.index.query([query], None if asked.label is None else [clean(asked.label)], asked.k, show=False)
    texts = bench.held_out
    if asked.row >= len(texts):
        raise DataError(f"{texts.name} has {len(texts):,} rows: there is no row {asked.row:,} (they count from 0).")
    chosen = texts.take([asked.row])
    labels = [chosen[0].label] if asked.explain == "label" and chosen[0].label is not None else None
    return bench.index.query(chosen, labels, asked.k, show=False)


def _labels(bench: Workbench) -> list[str]:
    return [str(name) for name in bench.index.run.label2id]


def _pairs(bench: Workbench) -> bool:
    return bench.index.run.corpus.columns.text_pair is not None
