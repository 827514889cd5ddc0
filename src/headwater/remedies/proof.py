"""The proof of a repair: train with it, without it, and with the same done to random rows; ask about other rows.

Test rows that the plan cites as queries helped to choose the repair, so they prove nothing: they are left out, and
told apart. Rows that cannot be asked are left out too, with a note. The verdict is by accuracy, of a language model by
the mean loss of a target token (see `measure`), against `untouched` and against `control` (of a plan that only edits:
`deleted`), and "harmful" and "no difference shown" are verdicts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import DataError, UsageError
from headwater.remedies.arms import CONTROL, DELETED, REPAIRED, UNTOUCHED, about, arms_of
from headwater.remedies.askable import told_unasked
from headwater.remedies.bench import Bench, Say
from headwater.remedies.change import Change
from headwater.remedies.differences import Difference, Told, by_part, difference, turned
from headwater.remedies.exam import Exam, Query, exam_of
from headwater.remedies.measure import CLASSES, Measure
from headwater.remedies.parts import SOURCE, parts_of
from headwater.remedies.plan import Plan
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import text_task

MOST_SHOWN = 40  # queries fixed, and as many broken


@dataclass(frozen=True)
class ArmOutcome:
    """An arm's numbers on the test rows, one a seed; `rows` are its training rows (the first seed's).

    Of a language model `accuracy` is that of tokens, `loss` that of a token.
    """

    name: str
    rows: int
    changed: dict[str, int]
    accuracy: tuple[float, ...]
    loss: tuple[float, ...]

    def to_dict(self, measure: Measure) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "about": about(self.name, measure),
            "rows": self.rows,
            "changed": self.changed,
            "accuracy": list(self.accuracy),
            "loss": list(self.loss),
        }


@dataclass(frozen=True)
class Proof:
    """What retraining says of a plan. `against` names what the repaired arm is compared with."""

    arms: tuple[ArmOutcome, ...]
    against: dict[str, Difference]
    parts: dict[str, dict[str, dict[str, Difference]]]
    """Of a kind (`label`, `source`), of each value, the repaired arm against each other one."""
    fixed: tuple[Query, ...]
    broken: tuple[Query, ...]
    cited: tuple[Query, ...]
    """Test rows that the plan cites: they are in no number above."""
    seeds: tuple[int, ...]
    asked_seeds: int
    test: str
    test_rows: int
    left_out: int
    rows: int
    of: int
    notes: tuple[str, ...]
    moved: tuple[tuple[int, float], ...] = ()
    """Test rows, and by how much their loss (of a language model: a token) changed (repaired less untouched, mean over
    seeds, nats)."""
    measure: Measure = CLASSES

    @property
    def verdicts(self) -> dict[str, str]:
        """Against each other arm: `better`, `harmful` or `no difference shown`."""
        return {name: found.word for name, found in self.against.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything, as proof.json holds it."""
        return {
            "format": 1,
            "verdict": self.verdicts,
            "sentence": sentence(self),
            "measure": self.measure.to_dict(),
            "arms": [arm.to_dict(self.measure) for arm in self.arms],
            "differences": {name: found.to_dict() for name, found in self.against.items()},
            "by": {
                kind: {value: {name: d.to_dict() for name, d in each.items()} for value, each in values.items()}
                for kind, values in self.parts.items()
            },
            "fixed": [query.to_dict() for query in self.fixed],
            "broken": [query.to_dict() for query in self.broken],
            "cited": [query.to_dict() for query in self.cited],
            "seeds": list(self.seeds),
            "asked_seeds": self.asked_seeds,
            "test": {"name": self.test, "rows": self.test_rows, "left_out": self.left_out},
            "training_rows": {"used": self.rows, "of": self.of},
            "notes": list(self.notes),
            "loss_changes": [list(each) for each in self.moved],
        }


def sentence(proof: Proof) -> str:
    """The verdict as one or two sentences."""
    words = proof.verdicts
    against = next(name for name in (CONTROL, DELETED) if name in words)
    before, chance = words[UNTOUCHED], words[against]
    other = "the same change of random rows" if against == CONTROL else "deleting the rows instead"
    first = {
        "better": "The repair is better than the corpus as it was",
        "harmful": "The repair is harmful: the corpus as it was is better",
        "no difference shown": "No difference shown between the repair and the corpus as it was",
    }[before]
    link = "and" if (before == "harmful") == (chance == "harmful") and "no d" not in before + chance else "but"
    link = "and" if before == chance else link
    second = {
        "better": f"better than {other}",
        "harmful": f"worse than {other}",
        "no difference shown": f"no difference is shown to {other}",
    }[chance]
    made = f"{first}, {link} {second}."
    return made if proof.rows == proof.of else f"On a subset of the rows: {made[:1].lower()}{made[1:]}"


def prove(
    run: Run,
    plan: Plan,
    change: Change,
    test: Corpus,
    folder: Path,
    *,
    seeds: int = 5,
    began: float | None = None,
    budget: float | None = None,
    say: Say = lambda _: None,
    show: bool | None = None,
) -> Proof:
    """Retrain every arm with `seeds` seeds (the run's own and those after it) and compare them on `test`.

    `budget` seconds from `began` (time.monotonic(), now if None): at need fewer seeds, then fewer rows; never later
    than that by more than one retraining. `folder` keeps what is finished. Raises UsageError for a plan that changes
    nothing, DataError for test rows without labels (or completions), for none that can be asked or that the plan
    leaves over, RunError without a recipe or where the time was over too soon.
    """
    exam = _exam(run, plan, change, test)
    cited = _cited(exam, plan, own=test is run.eval_corpus)
    recipe = run.need_recipe()
    kept = np.array([row for row in range(len(test)) if row not in cited and row not in exam.unasked], dtype=np.int64)
    bench = Bench(run, change, exam, folder, show=show)
    answers = bench.all_arms(
        [recipe.seed + number for number in range(seeds)],
        began=time.monotonic() if began is None else began,
        budget=budget,
        say=say,
    )
    tested = {name: exam.told(each).of(kept) for name, each in answers.arms.items()}
    repaired = tested[REPAIRED]
    queries = exam.queries(answers.arms)
    asked = [queries[row] for row in kept]
    fixed, broken = (_shown(asked, which, tested) for which in turned(repaired, tested[UNTOUCHED]))
    notes = [*answers.notes, *((told_unasked(test, exam.unasked),) if exam.unasked else ())]
    if len(answers.seeds) == 1:
        notes.append(
            "One seed: the noise of training is not known, so no difference counts as shown. Intervals are over test "
            "rows alone."
        )
    if CONTROL in tested and (change.texts or (change.labels and exam.measure is not CLASSES)):
        notes.append("Texts that are mended have no counterpart on random rows: the control leaves them out.")
    return Proof(
        arms=_outcomes(run, change, answers.rows, answers.seeds[0], tested),
        against={name: difference(repaired, other) for name, other in tested.items() if name != REPAIRED},
        parts=_parts(test, kept, tested),
        fixed=fixed,
        broken=broken,
        cited=tuple(queries[row] for row in sorted(cited)),
        seeds=answers.seeds,
        asked_seeds=seeds,
        test=test.name,
        test_rows=len(kept),
        left_out=len(cited),
        rows=answers.rows,
        of=answers.of,
        notes=tuple(notes),
        moved=_moved(repaired, tested[UNTOUCHED], kept),
        measure=exam.measure,
    )


def _moved(repaired: Told, untouched: Told, rows: np.ndarray) -> tuple[tuple[int, float], ...]:
    changes = (repaired.losses - untouched.losses).mean(axis=0)
    return tuple((int(row), round(float(change), 6)) for row, change in zip(rows, changes, strict=True))


def check_provable(run: Run, plan: Plan, change: Change, test: Corpus) -> set[int]:
    """Find before any work is done what makes a proof impossible (see `prove`); the test rows that the plan cites."""
    return _cited(_exam(run, plan, change, test), plan, own=test is run.eval_corpus)


def _exam(run: Run, plan: Plan, change: Change, test: Corpus) -> Exam:
    if not change.rows:
        raise UsageError(f"{plan.name}: no accepted row changes anything, so there is nothing to prove. See --accept.")
    return exam_of(run, test)


def _cited(exam: Exam, plan: Plan, *, own: bool) -> set[int]:
    """The rows that the plan cites, of those that can be asked."""
    test, asked = exam.test, len(exam.test) - len(exam.unasked)
    cited = cited_rows(plan, test, own=own) - exam.unasked.keys()
    if len(cited) == asked:
        every = f"all {asked:,} test rows that can be asked" if exam.unasked else "every test row"
        raise DataError(
            f"{test.name}: the plan cites {every} as a query, so none is left to prove it. Give others: --test."
        )
    return cited


def cited_rows(plan: Plan, test: Corpus, *, own: bool) -> set[int]:
    """Test rows that the plan's evidence names as queries: by their text or id; by number only of the run's `own`."""
    texts: set[str] = set()
    refs: set[int | str] = set()
    for repair in plan.repairs:
        for each in repair.evidence:
            if each.kind == "query":
                texts |= {each.text} if each.text is not None else set()
                refs |= {each.ref} if each.ref is not None else set()
    if not texts and not refs:
        return set()
    with_ids = test.columns.id is not None
    found = {row.row for row in test if str(row.text) in texts or (with_ids and row.id in refs)}
    if own and not with_ids:
        found |= {ref for ref in refs if isinstance(ref, int) and 0 <= ref < len(test)}
    return found


def _outcomes(run: Run, change: Change, rows: int, seed: int, tested: Mapping[str, Told]) -> tuple[ArmOutcome, ...]:
    arms = arms_of(change, run.corpus, seed, classes=text_task(run.task) is None)
    counts = {arm.name: arm.change for arm in arms}
    whole = rows == len(run.corpus)
    return tuple(
        ArmOutcome(
            name,
            len(run.corpus) - len(counts[name].delete) if whole else rows,
            counts[name].counts,
            tuple(told.mean(told.correct).tolist()),
            tuple(told.mean(told.losses).tolist()),
        )
        for name, told in tested.items()
    )


def _shown(found: Sequence[Query], which: np.ndarray, tested: Mapping[str, Told]) -> tuple[Query, ...]:
    """Of the tested queries those of `which`, the largest change first: of the probability, or of the loss a token."""
    one, other = tested[REPAIRED], tested[UNTOUCHED]

    def moved(place: int) -> tuple[float, int]:
        query = found[place]
        change = query.probability[REPAIRED] - query.probability[UNTOUCHED]
        if one.tokens is not None:
            change = float((one.losses[:, place] - other.losses[:, place]).mean())
        return -abs(change), query.row

    return tuple(found[place] for place in sorted(np.flatnonzero(which).tolist(), key=moved)[:MOST_SHOWN])


def _parts(test: Corpus, kept: np.ndarray, tested: Mapping[str, Told]) -> dict[str, dict[str, dict[str, Difference]]]:
    """By label where labels are classes, and by source where the test rows have a column of that name; few values."""
    classes = tested[REPAIRED].tokens is None
    columns = {"label": test.columns.label if classes else None, SOURCE: SOURCE}
    found: dict[str, dict[str, dict[str, Difference]]] = {}
    for kind, column in columns.items():
        parts = parts_of(test, column)
        if parts is None:
            continue
        values = np.array(parts, dtype=object)[kept]
        where = {value: np.flatnonzero(values == value) for value in sorted(set(values.tolist()))}
        against = {name: by_part(tested[REPAIRED], other, where) for name, other in tested.items() if name != REPAIRED}
        found[kind] = {value: {name: each[value] for name, each in against.items()} for value in where}
    return found
