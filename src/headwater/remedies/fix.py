"""`headwater fix`: a plan applied to a new corpus, kept with where it came from; retrained and proved if asked.

    RUN2/fix/    corpus.parquet  plan.jsonl  lineage.json     the repaired rows, the plan as it was given, whence
                 proof.json  proof.html  answers/             with a retraining
    RUN2/        headwater/  checkpoint-*                     the run on the repaired rows, with a retraining

Nothing is written into the old run. The same call again goes on where the last one stopped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import headwater
from headwater.errors import RunError
from headwater.files import digest, read_json, write_json, write_text
from headwater.remedies.apply import planned
from headwater.remedies.change import Change, label_changes
from headwater.remedies.plan import Plan
from headwater.runs.corpus import Corpus
from headwater.runs.record import has_record
from headwater.runs.run import Run
from headwater.runs.task import text_task
from headwater.training import retrain

FOLDER, CORPUS, PLAN, LINEAGE = "fix", "corpus.parquet", "plan.jsonl", "lineage.json"
PROOF, PAGE, ANSWERS = "proof.json", "proof.html", "answers"


@dataclass(frozen=True)
class Fix:
    """A plan applied: what changed, and the corpus that came of it. `out` is RUN2."""

    run: Run
    plan: Plan
    change: Change
    corpus: Corpus
    out: Path
    lineage: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where plan, corpus, lineage and proof lie."""
        return self.out / FOLDER

    @property
    def trained(self) -> bool:
        """Whether RUN2 holds a finished training."""
        return has_record(self.out)


def fix(run: Run, plan: Plan, out: Path, *, accept: Sequence[str] = ()) -> Fix:
    """Apply a plan and write RUN2/fix. The same run, plan and `accept` again find it there.

    Raises what `planned` raises; RunError where `out` holds anything else.
    """
    change = planned(plan, run.corpus, accept, classes=_classes(run))
    corpus = change.apply(run.corpus)
    out = out.resolve()
    if out == run.folder:
        raise RunError(f"{out}: is the run itself. A repair goes to a new folder: --out.")
    lineage = _lineage(run, plan, change, corpus, out, accept)
    folder = out / FOLDER
    if (folder / LINEAGE).is_file():
        if _identity(read_json(folder / LINEAGE)) != _identity(lineage):
            raise RunError(f"{out}: holds the repair of another run, plan or --accept. Choose another folder.")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())) and not _begun(out):
        raise RunError(f"{out}: is not empty. Choose another folder, or delete it first.")
    write_text(folder / PLAN, plan.lines())
    corpus.save(folder / CORPUS)
    write_json(folder / LINEAGE, lineage)
    return Fix(run, plan, change, corpus, out, lineage)


def train_repaired(fixed: Fix, *, show: bool | None = None) -> Run:
    """Train RUN2 itself: the run's recipe and its own seed, on the repaired rows; what is there already is opened."""
    if fixed.trained:
        return Run.open(fixed.out, task=fixed.run.task)
    begun = fixed.folder / "training"
    if not has_record(begun) or not (begun / "whole").is_file():
        shutil.rmtree(begun, ignore_errors=True)
        retrain(fixed.run, corpus=fixed.corpus, out=begun, title="training the repaired run", show=show)
        write_text(begun / "whole", "")
    for path in sorted(begun.glob("checkpoint-*")):
        path.replace(fixed.out / path.name)
    for path in (path for path in begun.iterdir() if path.name not in ("headwater", "whole")):
        path.replace(fixed.out / path.name)
    (begun / "headwater").replace(fixed.out / "headwater")  # last: a run is there once its record is
    shutil.rmtree(begun)
    return Run.open(fixed.out, task=fixed.run.task)


def _classes(run: Run) -> bool:
    """Whether labels are classes, not texts."""
    return text_task(run.task) is None


def _begun(out: Path) -> bool:
    """Whether a call that was killed left its first files here, and nothing else is."""
    return {path.name for path in out.iterdir()} <= {FOLDER}


def _lineage(run: Run, plan: Plan, change: Change, corpus: Corpus, out: Path, accept: Sequence[str]) -> dict[str, Any]:
    return {
        "format": 1,
        "version": headwater.__version__,
        "run": {
            "name": run.name,
            "folder": Path(os.path.relpath(run.folder, out)).as_posix(),
            "rows": len(run.corpus),
            "corpus": run.corpus.fingerprint,
        },
        "plan": {"name": Path(plan.name).name, "digest": digest([plan.lines()]), "repairs": len(plan.repairs)},
        "accept": list(accept),
        "applied": change.counts,
        "relabelled": [
            {"from": old, "to": new, "rows": count}
            for (old, new), count in sorted(label_changes(change, run.corpus).items(), key=str)
            if _classes(run)  # completions are no list to read: the plan has them
        ],
        "deleted": sorted(change.delete),
        "corpus": {"rows": len(corpus), "fingerprint": corpus.fingerprint},
    }


def _identity(lineage: Any) -> Any:
    """What must be the same for a call to go on: the rows before and after, and the plan."""
    try:
        return lineage["run"]["corpus"], lineage["corpus"]["fingerprint"], lineage["plan"]["digest"]
    except (KeyError, TypeError):
        return None
