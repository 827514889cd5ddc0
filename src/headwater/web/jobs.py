"""Jobs: audits, grading, indexes and retrainings in the background; what each will cost is said before it starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Request
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from headwater.attribution.estimate import estimate_index
from headwater.attribution.numerals import plural
from headwater.engines.jobs import Job, Jobs
from headwater.errors import UsageError
from headwater.methods import all_methods, get_method
from headwater.remedies.apply import planned
from headwater.remedies.change import Change
from headwater.remedies.cost import retraining_seconds, trainings_of
from headwater.remedies.decisions import accepted_plan
from headwater.remedies.page import applied
from headwater.remedies.plan import Plan
from headwater.remedies.proof import check_provable
from headwater.runs import text_task
from headwater.runs.record import FOLDER
from headwater.web.errors import REFUSED
from headwater.web.look import page
from headwater.web.state import Bench, Workbench
from headwater.web.waiting import PatientRoute

router = APIRouter(route_class=PatientRoute)

AUDITS = ("mislabels", "duplicates", "lexical-bias", "poison")

Number = Annotated[int, InPath(ge=1, le=1 << 53)]
Minutes = Annotated[int, Field(ge=1, le=7 * 24 * 60)]


class _Wanted(BaseModel):
    model_config = {"extra": "forbid"}


class Repairing(_Wanted):
    """Apply the accepted marks to a new corpus, retrain, and prove it."""

    kind: Literal["fix"]
    seeds: Annotated[int, Field(ge=1, le=50)] = 5
    budget: Minutes | None = None
    """Minutes; at need fewer seeds, then a part of the rows. None: as long as it takes."""


class Auditing(_Wanted):
    """Look for rows that are wrong; what is suggested goes into the worklist."""

    kind: Literal["audit"]
    what: Literal["mislabels", "duplicates", "lexical-bias", "poison"] = "mislabels"
    budget: Minutes = 30


class Grading(_Wanted):
    """Grade methods by retraining."""

    kind: Literal["evaluate"]
    methods: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=10)] = []
    """If none is named, the first that the index can answer by."""
    budget: Minutes = 30


class Indexing(_Wanted):
    """Index what another method reads."""

    kind: Literal["index"]
    method: Annotated[str, Field(max_length=100)] = "tracin-we"


Wanted = Annotated[Repairing | Auditing | Grading | Indexing, Body(discriminator="kind")]


@dataclass(frozen=True)
class Cost:
    """What a job will take. `seconds` None: not known before; `most`: it stops by then."""

    seconds: float | None
    most: float | None
    does: str


@router.get("/jobs", response_class=HTMLResponse, include_in_schema=False)
async def jobs(
    request: Request, bench: Bench, kind: Annotated[Literal["fix", "audit", "evaluate", "index"], Query()] = "fix"
) -> HTMLResponse:
    """Show the jobs, and forms to start one."""
    found = await run_in_threadpool(jobs_of(bench).all)
    changes = await run_in_threadpool(_accepted, bench)
    classes = text_task(bench.index.run.task) is None
    return page(
        request,
        "jobs.html.j2",
        here="/jobs",
        kind=kind,
        jobs=[_view(bench, job) for job in found],
        audits=AUDITS,
        indexable=[method.name for method in all_methods() if method.need not in ("texts", "nothing")],
        methods=[method.name for method in await bench.once("methods", lambda: bench.index.methods)],
        accepted=changes,
        classes=classes,
    )


@router.get("/api/jobs", tags=["jobs"], responses=REFUSED)
def list_jobs(bench: Bench) -> list[dict[str, Any]]:
    """List the jobs, the latest first."""
    return [asdict(job) for job in jobs_of(bench).all()]


@router.post("/api/jobs/cost", tags=["jobs"], responses=REFUSED)
async def cost_of_job(bench: Bench, wanted: Wanted) -> Mapping[str, Any]:
    """Say what a job would do and how long it would take, without starting it."""
    return asdict(await _cost(bench, wanted))


@router.post("/api/jobs", tags=["jobs"], responses=REFUSED, status_code=201)
async def start_job(bench: Bench, wanted: Wanted) -> Mapping[str, Any]:
    """Start a job in the background; it goes on when the page is closed, and when the server is."""
    return asdict(await run_in_threadpool(_start, bench, wanted))


@router.get("/api/jobs/{number}", tags=["jobs"], responses=REFUSED)
def one_job(bench: Bench, number: Number) -> Mapping[str, Any]:
    """One job: its state, how far it is, and the end of its log."""
    return {**asdict(jobs_of(bench).get(number)), "log": jobs_of(bench).log(number)}


@router.post("/api/jobs/{number}/cancel", tags=["jobs"], responses=REFUSED)
def cancel_job(bench: Bench, number: Number) -> Mapping[str, Any]:
    """Ask a job to end. What it finished stays; a retraining that is started again goes on there."""
    return asdict(jobs_of(bench).cancel(number))


@router.get("/jobs/{number}/graded", response_class=HTMLResponse, include_in_schema=False)
def graded(bench: Bench, number: Number) -> HTMLResponse:
    """Show the page that a grading wrote."""
    job = jobs_of(bench).get(number)
    path = Path(str(job.facts.get("out", ""))) / "evaluation.html"
    if job.kind != "evaluate" or not path.is_file():
        raise UsageError(f"job {number} graded nothing.")
    return HTMLResponse(path.read_text(encoding="utf-8"))


def jobs_of(bench: Workbench) -> Jobs:
    """Return the jobs of the run."""
    return Jobs(bench.index.run.folder / FOLDER / "jobs")


def _view(bench: Workbench, job: Job) -> dict[str, Any]:
    """What the page shows of a job: of one that failed, also why."""
    log = jobs_of(bench).log(job.number) if job.state in ("failed", "lost", "running") else ""
    return {"job": job, "log": "\n".join(log.replace("\r", "\n").strip().splitlines()[-8:])}


async def _cost(bench: Workbench, wanted: Any) -> Cost:
    run = bench.index.run
    if isinstance(wanted, Repairing):
        _, change = await run_in_threadpool(_checked, bench)
        each = await bench.once("a retraining", lambda: retraining_seconds(run))
        count = trainings_of(run, change, wanted.seeds)
        most = None if wanted.budget is None else 60.0 * wanted.budget
        does = f"{applied(change.counts)}; {plural(count, 'training')} of about {each:,.0f} s each"
        return Cost(each * count if most is None else min(each * count, most), most, does)
    if isinstance(wanted, Indexing):
        method = get_method(wanted.method)
        if method.need != "tokens":
            return Cost(None, None, f"index what {method.name} reads; the job's log says first what it will take")
        place, checkpoints = run.folder / "index", run.checkpoints
        found = await bench.worker.run(lambda: estimate_index(run, place, checkpoints=checkpoints))
        return Cost(
            found.seconds, None, f"index {plural(found.rows, 'row')} at {plural(found.checkpoints, 'checkpoint')}"
        )
    what = f"look for {wanted.what}" if isinstance(wanted, Auditing) else "grade methods by retraining"
    return Cost(None, 60.0 * wanted.budget, f"{what}; it stops in time, with a part of the work if need be")


def _start(bench: Workbench, wanted: Any) -> Job:
    run, jobs = bench.index.run, jobs_of(bench)
    folder = str(run.folder)
    if isinstance(wanted, Repairing):
        return _start_repair(bench, wanted)
    if isinstance(wanted, Auditing):
        title, out = f"Audit: {wanted.what}", run.folder / "audit" / wanted.what
        command = ["audit", folder, wanted.what, "--budget", f"{wanted.budget}m", "--out", str(out)]
    elif isinstance(wanted, Grading):
        names = [get_method(name).name for name in wanted.methods] or [bench.index.methods[0].name]
        out = run.folder / "evaluation"
        title = f"Grade {', '.join(names)}"
        command = ["evaluate", folder, "--methods", ",".join(names), "--budget", f"{wanted.budget}m"]
        command += ["--out", str(out)]
    else:
        method, out = get_method(wanted.method), run.folder / "index"
        title, command = f"Index for {method.name}", ["index", folder, "--method", method.name]
    return jobs.start(jobs.prepare(), wanted.kind, title, _headwater(command), {"out": str(out)})


def _start_repair(bench: Workbench, wanted: Repairing) -> Job:
    run, jobs = bench.index.run, jobs_of(bench)
    plan, change = _checked(bench)
    place = jobs.prepare()
    plan.write(place / "plan.jsonl")
    out = _free(run.folder, jobs)
    command = ["fix", str(run.folder), str(place / "plan.jsonl"), "--out", str(out), "--retrain"]
    command += ["--seeds", str(wanted.seeds)]
    command += [] if wanted.budget is None else ["--budget", f"{wanted.budget}m"]
    if bench.queries is not run.eval_corpus:
        bench.held_out.save(place / "test.parquet")
        command += ["--test", str(place / "test.parquet")]
    title = f"Retrain and prove: {applied(change.counts)}"
    return jobs.start(place, "fix", title, _headwater(command), {"out": str(out)})


def _checked(bench: Workbench) -> tuple[Plan, Change]:
    """Return the accepted marks, and what they change. Raises what makes a proof of them impossible."""
    run = bench.index.run
    plan = accepted_plan(run, "headwater serve")
    if not plan.repairs:
        raise UsageError("nothing is accepted yet. Mark rows first: on the worklist, or on the page of an answer.")
    change = planned(plan, run.corpus, (), classes=text_task(run.task) is None)
    run.need_recipe()
    check_provable(run, plan, change, bench.held_out)
    return plan, change


def _accepted(bench: Workbench) -> str:
    """What the accepted marks do, in words; "" where they do nothing."""
    plan = accepted_plan(bench.index.run)
    if not plan.repairs:
        return ""
    change = planned(plan, bench.index.run.corpus, (), classes=text_task(bench.index.run.task) is None)
    return applied(change.counts) if change.rows else ""


def _free(folder: Path, jobs: Jobs) -> Path:
    """A folder beside the run that neither is there nor is promised to a job."""
    promised = {job.facts.get("out") for job in jobs.all()}
    number = 1
    while (out := folder.with_name(f"{folder.name}-fixed-{number}")).exists() or str(out) in promised:
        number += 1
    return out


def _headwater(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "headwater", *arguments]
