"""Proof: what a retraining said of a repair, and how far the tray's estimate came true."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse

from headwater.errors import UsageError
from headwater.remedies.fix import FOLDER as FIX
from headwater.remedies.fix import PLAN
from headwater.remedies.foretold import Estimated, foretold
from headwater.remedies.page import proof_context
from headwater.remedies.plan import read_plan
from headwater.remedies.proof import Proof
from headwater.remedies.proof_file import read_proof
from headwater.web.jobs import jobs_of
from headwater.web.look import page
from headwater.web.state import Bench, Workbench
from headwater.web.waiting import PatientRoute

router = APIRouter(route_class=PatientRoute)

Number = Annotated[int, InPath(ge=1, le=1 << 53)]


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
    """Compare the estimate with the outcome. None where the proof is of other rows than the workbench has."""
    return None if bench.queries is None else foretold(bench.index, found, read_plan(folder / PLAN), bench.queries)
