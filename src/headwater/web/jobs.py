"""Jobs: audits, grading, indexes and retrainings in the background; what each will cost is said before it starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Request
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from headwater.attribution.estimate import estimate_index
from headwater.attribution.numerals import plural
from headwater.audit.sources import WHAT as SOURCES
from headwater.engines.jobs import Job, Jobs
from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.methods import all_methods, get_method
from headwater.remedies.apply import planned
from headwater.remedies.change import Change
from headwater.remedies.cost import retraining_seconds, trainings_of
from headwater.remedies.decisions import accepted_plan
from headwater.remedies.fix import PLAN
from headwater.remedies.page import applied
from headwater.remedies.patch import BYS, By, check_patchable, read_patch
from headwater.remedies.patch import Patching as Steps
from headwater.remedies.plan import Plan
from headwater.remedies.proof import check_provable
from headwater.runs import text_task
from headwater.runs.record import FOLDER
from headwater.web.errors import REFUSED
from headwater.web.look import page
from headwater.web.state import Standing, Typed, Workbench
from headwater.web.waiting import PatientRoute

router = APIRouter(route_class=PatientRoute)

AUDITS = ("mislabels", "duplicates", "lexical-bias", "poison", SOURCES)

Number = Annotated[int, InPath(ge=1, le=1 << 53)]
Minutes = Annotated[float, Field(ge=0.1, le=7 * 24 * 60, allow_inf_nan=False)]
HeldOut = Annotated[int, Field(ge=0, le=1 << 53)]


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
    what: Literal["mislabels", "duplicates", "lexical-bias", "poison", "sources"] = "mislabels"
    column: Annotated[Typed, Field(max_length=1000)] | None = None
    """Of sources: the corpus' column that names each row's."""
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


class Patching(_Wanted):
    """Mend wrong answers by a few steps, as a run of its own; what else changes is told."""

    kind: Literal["patch"]
    rows: Annotated[list[HeldOut], Field(min_length=1, max_length=20)]
    """Held-out rows that shall be answered right."""
    by: By = "index"
    """What chooses the rows to step on."""


Wanted = Annotated[Repairing | Auditing | Grading | Indexing | Patching, Body(discriminator="kind")]


@dataclass(frozen=True)
class Cost:
    """What a job will take. `seconds` None: not known before; `most`: it stops by then."""

    seconds: float | None
    most: float | None
    does: str


@router.get("/jobs", response_class=HTMLResponse, include_in_schema=False)
async def jobs(
    request: Request,
    bench: Standing,
    kind: Annotated[Literal["fix", "audit", "evaluate", "index", "patch"], Query()] = "fix",
    row: Annotated[HeldOut | None, Query()] = None,
) -> HTMLResponse:
    """Show the jobs, and forms to start one."""
    found = await run_in_threadpool(jobs_of(bench).all)
    changes = await run_in_threadpool(_accepted, bench)
    return page(
        request,
        "jobs.html.j2",
        here="/jobs",
        kind=kind,
        jobs=[_view(bench, job) for job in found],
        audits=[name for name in AUDITS if name != SOURCES or columns_of(bench)],
        columns=columns_of(bench),
        patches=() if text_task(bench.index.run.task) else BYS,
        row=row,
        indexable=[method.name for method in all_methods() if method.need not in ("texts", "nothing")],
        methods=await _gradable(bench) if kind == "evaluate" else (),
        accepted=changes,
    )


@router.get("/api/jobs", tags=["jobs"], responses=REFUSED)
def list_jobs(bench: Standing) -> list[dict[str, Any]]:
    """List the jobs, the latest first."""
    return [asdict(job) for job in jobs_of(bench).all()]


@router.post("/api/jobs/cost", tags=["jobs"], responses=REFUSED)
async def cost_of_job(bench: Standing, wanted: Wanted) -> Mapping[str, Any]:
    """Say what a job would do and how long it would take, without starting it."""
    return asdict(await _cost(bench, wanted))


@router.post("/api/jobs", tags=["jobs"], responses=REFUSED, status_code=201)
async def start_job(bench: Standing, wanted: Wanted) -> Mapping[str, Any]:
    """Start a job in the background; it goes on when the page is closed, and when the server is."""
    return asdict(await run_in_threadpool(_start, bench, wanted))


@router.get("/api/jobs/{number}", tags=["jobs"], responses=REFUSED)
def one_job(bench: Standing, number: Number) -> Mapping[str, Any]:
    """One job: its state, how far it is, and the end of its log."""
    return {**asdict(jobs_of(bench).get(number)), "log": jobs_of(bench).log(number)}


@router.post("/api/jobs/{number}/cancel", tags=["jobs"], responses=REFUSED)
def cancel_job(bench: Standing, number: Number) -> Mapping[str, Any]:
    """Ask a job to end. What it finished stays; a retraining that is started again goes on there."""
    return asdict(jobs_of(bench).cancel(number))


@router.get("/jobs/{number}/graded", response_class=HTMLResponse, include_in_schema=False)
def graded(bench: Standing, number: Number) -> HTMLResponse:
    """Show the page that a grading wrote."""
    job = jobs_of(bench).get(number)
    path = Path(str(job.facts.get("out", ""))) / "evaluation.html"
    if job.kind != "evaluate" or not path.is_file():
        raise UsageError(f"job {number} graded nothing.")
    return HTMLResponse(path.read_text(encoding="utf-8"))


def jobs_of(bench: Workbench) -> Jobs:
    """Return the jobs of the run."""
    return Jobs(bench.index.run.folder / FOLDER / "jobs")


def columns_of(bench: Workbench) -> list[str]:
    """Return the corpus' columns that may name a source: those that no task reads."""
    corpus = bench.index.run.corpus
    read = set(astuple(corpus.columns))
    return [name for name in corpus.table.column_names if name not in read]


async def _gradable(bench: Workbench) -> list[str]:
    """The methods that the index can answer by: to know its layers the model may be needed, so the worker says."""
    return [method.name for method in await bench.once("methods", lambda: bench.index.methods)]


def _view(bench: Workbench, job: Job) -> dict[str, Any]:
    """What the page shows of a job: of one that failed, also why; of a patch, what came of it."""
    log = jobs_of(bench).log(job.number) if job.state in ("failed", "lost", "running") else ""
    log = "\n".join(log.replace("\r", "\n").strip().splitlines()[-8:])
    told: Sequence[str] = ()
    if job.kind == "patch" and job.state == "done":
        try:
            told = read_patch(Path(str(job.facts["out"])))
        except HeadwaterError as error:  # one damaged file is no reason to show no job
            told = (str(error),)
    return {"job": job, "log": log, "told": told}


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
        place, checkpoints = bench.index.folder, run.checkpoints
        found = await bench.worker.run(lambda: estimate_index(run, place, checkpoints=checkpoints))
        return Cost(
            found.seconds, None, f"index {plural(found.rows, 'row')} at {plural(found.checkpoints, 'checkpoint')}"
        )
    if isinstance(wanted, Patching):
        answers = plural(len(_to_patch(bench, wanted)), "answer")
        return Cost(
            None, None, f"mend {answers} by at most {Steps().steps} steps, and as many on random rows beside it"
        )
    if isinstance(wanted, Auditing):
        _column(bench, wanted)
    what = f"look for {wanted.what}" if isinstance(wanted, Auditing) else "grade methods by retraining"
    return Cost(None, 60.0 * wanted.budget, f"{what}; it stops in time, with a part of the work if need be")


def _start(bench: Workbench, wanted: Any) -> Job:
    run, jobs = bench.index.run, jobs_of(bench)
    folder = str(run.folder)
    if isinstance(wanted, Repairing):
        return _start_repair(bench, wanted)
    if isinstance(wanted, Patching):
        return _start_patch(bench, wanted)
    if isinstance(wanted, Auditing):
        title, out = f"Audit: {wanted.what}", run.folder / "audit" / wanted.what
        command = ["audit", folder, wanted.what, "--budget", f"{wanted.budget:g}m", "--out", str(out)]
        command += _column(bench, wanted)
    elif isinstance(wanted, Grading):
        names = [get_method(name).name for name in wanted.methods] or [bench.index.methods[0].name]
        out = run.folder / "evaluation"
        title = f"Grade {', '.join(names)}"
        command = ["evaluate", folder, "--methods", ",".join(names), "--budget", f"{wanted.budget:g}m"]
        command += ["--out", str(out)]
    else:
        method, out = get_method(wanted.method), bench.index.folder  # of one at a URL its mirror here
        title, command = f"Index for {method.name}", ["index", folder, "--method", method.name]
        command += [] if out == run.folder / "index" else ["--out", str(out)]
    with jobs.preparing() as place:
        return jobs.start(place, wanted.kind, title, _headwater(command), {"out": str(out)})


def _start_repair(bench: Workbench, wanted: Repairing) -> Job:
    run, jobs = bench.index.run, jobs_of(bench)
    plan, change = _checked(bench)
    with jobs.preparing() as place:
        plan.write(place / PLAN)
        out = _unfinished(jobs, place) or _free(run.folder, jobs)
        command = ["fix", str(run.folder), str(place / PLAN), "--out", str(out), "--retrain"]
        command += ["--seeds", str(wanted.seeds)]
        command += [] if wanted.budget is None else ["--budget", f"{wanted.budget:g}m"]
        if bench.queries is not run.eval_corpus:
            bench.held_out.save(place / "test.parquet")
            command += ["--test", str(place / "test.parquet")]
        title = f"Retrain and prove: {applied(change.counts)}"
        return jobs.start(place, "fix", title, _headwater(command), {"out": str(out)})


def _unfinished(jobs: Jobs, place: Path) -> Path | None:
    """Where the latest job with this very plan ended early: the same command goes on there with what it finished."""
    plan = (place / PLAN).read_bytes()
    for job in jobs.all():
        earlier = jobs.folder / str(job.number) / PLAN
        if job.kind == "fix" and earlier.is_file() and earlier.read_bytes() == plan:
            return Path(str(job.facts["out"])) if job.over and job.state != "done" else None
    return None


def _start_patch(bench: Workbench, wanted: Patching) -> Job:
    run, jobs = bench.index.run, jobs_of(bench)
    rows = _to_patch(bench, wanted)
    named = ", ".join(f"{row:,}" for row in rows[:5]) + (" and more" if len(rows) > 5 else "")
    title = f"Patch the {'answer' if len(rows) == 1 else 'answers'} to held-out {named}"
    out = _free(run.folder, jobs, "patched")
    command = ["patch", str(run.folder), "--by", wanted.by, "--out", str(out)]
    for row in rows:
        command += ["--row", str(row)]
    with jobs.preparing() as place:
        if bench.queries is not run.eval_corpus:
            bench.held_out.save(place / "test.parquet")
            command += ["--queries", str(place / "test.parquet")]
        return jobs.start(place, "patch", title, _headwater(command), {"out": str(out)})


def _to_patch(bench: Workbench, wanted: Patching) -> list[int]:
    """Return the held-out rows that are to be answered right. Raises UsageError, DataError."""
    check_patchable(bench.index)
    texts = bench.held_out
    for row in wanted.rows:
        if row >= len(texts):
            raise DataError(f"{texts.name} has {len(texts):,} rows: there is no row {row:,} (they count from 0).")
    return list(dict.fromkeys(wanted.rows))


def _column(bench: Workbench, wanted: Auditing) -> list[str]:
    """Return the option that names the column of sources. Raises UsageError."""
    if wanted.what != SOURCES:
        if wanted.column is not None:
            raise UsageError("column: give one where the audit is of sources, and only there.")
        return []
    offered = columns_of(bench)
    if not offered:
        raise UsageError("the corpus has no column beside its texts and labels: which source a row is of is not known.")
    if wanted.column not in offered:
        raise UsageError(f"column: name the one that says which source a row is of: {', '.join(offered)}.")
    return ["--column", str(wanted.column)]


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


def _free(folder: Path, jobs: Jobs, kind: str = "fixed") -> Path:
    """A folder beside the run that neither is there nor is promised to a job."""
    promised = {job.facts.get("out") for job in jobs.all()}
    number = 1
    while (out := folder.with_name(f"{folder.name}-{kind}-{number}")).exists() or str(out) in promised:
        number += 1
    return out


def _headwater(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "headwater", *arguments]
