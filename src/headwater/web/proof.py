"""Proof: what a retraining said of a repair, and how far the tray's estimate came true."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Request
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse
from scipy.stats import spearmanr

from headwater.errors import UsageError
from headwater.remedies.fix import FOLDER as FIX
from headwater.remedies.fix import PLAN
from headwater.remedies.page import proof_context
from headwater.remedies.plan import read_plan
from headwater.remedies.proof import Proof
from headwater.remedies.proof_file import read_proof
from headwater.web.jobs import jobs_of
from headwater.web.look import page
from headwater.web.state import Bench, Workbench
from headwater.web.waiting import PatientRoute

router = APIRouter(route_class=PatientRoute)

MOST = 200  # test rows whose estimate is compared with the outcome

Number = Annotated[int, InPath(ge=1, le=1 << 53)]


@dataclass(frozen=True)
class Estimated:
    """Estimated and real change of loss by test row; `correlation` is Spearman's, None where there is none."""

    method: str
    rows: tuple[int, ...]
    estimates: tuple[float, ...]
    outcomes: tuple[float, ...]
    correlation: float | None

    def places(self) -> list[tuple[int, float, float]]:
        """Return row and place in a square of side 100, the outcome upwards; both axes cross zero at 50."""
        widest = max(map(abs, self.estimates), default=0.0) or 1.0
        highest = max(map(abs, self.outcomes), default=0.0) or 1.0
        points = zip(self.rows, self.estimates, self.outcomes, strict=True)
        return [(row, 50 + 48 * x / widest, 50 - 48 * y / highest) for row, x, y in points]


@router.get("/proof/{number}", response_class=HTMLResponse, include_in_schema=False)
async def proof(request: Request, bench: Bench, number: Number) -> HTMLResponse:
    """Show the proof that a job made."""
    job = jobs_of(bench).get(number)
    if job.kind != "fix" or job.state != "done":
        raise UsageError(f"job {number} has no proof: it is {job.state}.")
    folder = Path(str(job.facts["out"])) / FIX
    found, lineage = read_proof(folder)
    estimated = await bench.once(("estimate", number), lambda: _estimated(bench, found, folder))
    told = proof_context(found, lineage)
    return page(request, "outcome.html.j2", here="/jobs", job=job, folder=folder.parent, estimated=estimated, **told)


def _estimated(bench: Workbench, found: Proof, folder: Path) -> Estimated | None:
    """What the rows that the plan changes pushed each test row, beside what their change did to its loss.

    A row that is relabelled counts as one that is gone, as in the tray. None where other rows were tested.
    """
    texts = bench.queries
    if texts is None or not found.moved or texts.name != found.test or max(found.moved)[0] >= len(texts):
        return None
    changed = sorted({r.row for r in read_plan(folder / PLAN).repairs if r.row is not None and r.action != "keep"})
    moved = dict(found.moved)
    chosen = sorted(moved)
    if len(chosen) > MOST:
        chosen = sorted(np.random.default_rng(0).choice(chosen, MOST, replace=False).tolist())
    asked = texts.take(chosen)
    labels: list[str | int] = ["" if example.label is None else example.label for example in asked]
    method = bench.index.methods[0].name
    scores = bench.index.scores(asked, labels, method=method, show=False)
    estimates = scores[:, changed].astype(np.float64).sum(axis=1)
    outcomes = np.array([moved[row] for row in chosen])
    known = len(chosen) > 2 and np.ptp(estimates) > 0 and np.ptp(outcomes) > 0
    correlation = float(spearmanr(estimates, outcomes).statistic) if known else None
    return Estimated(method, tuple(chosen), tuple(estimates.tolist()), tuple(outcomes.tolist()), correlation)
