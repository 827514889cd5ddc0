"""A patch: a few small steps on the training rows that speak for the right answer to wrong queries (FastIF's error
repair, Guo et al. 2021, arXiv 2012.15781, section 5.4). The corpus stays as it is, so the next training loses it.

    RUN2/  checkpoint-patched  headwater/  patch.json       a run on the same rows; the old run is never written into
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn
from transformers import PreTrainedModel

from headwater.attribution.index import Index
from headwater.errors import DataError, HeadwaterError, RunError, UsageError
from headwater.files import read_json, write_json
from headwater.models.load import load_model
from headwater.progress import progress_bar
from headwater.remedies.differences import Difference, Told, difference
from headwater.remedies.lissa import solve
from headwater.runs import Corpus, Run
from headwater.runs.task import corpus_targets, text_task
from headwater.training import Predictions, predict
from headwater.training.trained import only_trained

By = Literal["index", "representation", "lissa", "random"]
BYS: tuple[By, ...] = ("index", "representation", "lissa", "random")
CHECKPOINT, FILE = "checkpoint-patched", "patch.json"
LOST = "The corpus is as it was: the next training loses this patch. To last, repair the rows: headwater fix."


@dataclass(frozen=True)
class Patching:
    """How to patch. `candidates`: so many rows may be stepped on; `rows` of them in each of `steps` steps."""

    by: By = "index"
    candidates: int = 100
    rows: int = 10
    replay: int = 10
    """Random rows that each step takes too: they hold the model where it is for everything else."""
    steps: int = 10
    learning_rate: float = 2e-5
    seconds: float = 60.0
    """Of LiSSA: its recursion, and the gradients of the candidates, end by then."""

    def __post_init__(self) -> None:
        """Raise UsageError for what is no patch."""
        if self.by not in BYS:
            raise UsageError(f"by {self.by!r} is not one of {', '.join(BYS)}.")
        for name in ("candidates", "rows", "steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more, not {getattr(self, name)}.")
        if self.replay < 0:
            raise UsageError(f"replay must be 0 or more, not {self.replay}.")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate must be above 0, not {self.learning_rate}.")


@dataclass(frozen=True)
class Target:
    """A query before and after: the model's answer, and the probability of the right one."""

    text: str
    label: str
    before: str
    after: str
    probability_before: float
    probability_after: float

    @property
    def fixed(self) -> bool:
        """Whether it was wrong and is right."""
        return self.before != self.label == self.after


@dataclass(frozen=True)
class Patched:
    """What a patch did. `others`: the patched model less the old one on other held-out rows; `control`: the same of as
    many steps on random rows. Intervals are over rows, of one training."""

    targets: tuple[Target, ...]
    rows: tuple[int, ...]
    """The training rows that were stepped on, in that order."""
    steps: int
    others: Difference | None
    control: Difference | None
    control_fixed: int
    """Targets that the control fixed."""
    seconds: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "targets": [{**asdict(target), "fixed": target.fixed} for target in self.targets],
            "fixed": sum(target.fixed for target in self.targets),
            "rows": list(self.rows),
            "steps": self.steps,
            "others": None if self.others is None else self.others.to_dict(),
            "control": None if self.control is None else self.control.to_dict(),
            "control_fixed": self.control_fixed,
            "seconds": self.seconds,
            "notes": [LOST, *self.notes],
        }


def patch(
    index: Index,
    targets: Corpus,
    others: Corpus | None,
    how: Patching | None = None,
    *,
    out: Path | None = None,
    control: bool = True,
    seed: int = 0,
    show: bool | None = None,
) -> Patched:
    """Patch the last checkpoint of the index's run for `targets`, and measure `others`; write a run to `out` if given.

    Steps end as soon as every target is right. Raises UsageError for a task without classes, DataError for targets
    without labels, RunError where `out` is not empty.
    """
    began, how, run = time.monotonic(), how or Patching(), index.run
    check_patchable(index)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: is not empty. Choose another folder, or delete it first.")
    model = load_model(run.checkpoints[-1].path, run.task.auto, merge=False)
    asked = _Asked(run, targets, others)
    before = asked.of(model)
    order, notes = ranked(index, model, targets, how, seed=seed, show=show)
    used, steps = _step(run, model, order, targets, how, seed, show)
    after = asked.of(model)
    told = Patched(
        asked.targets(before, after),
        tuple(used),
        steps,
        asked.difference(after, before),
        None,
        0,
        0.0,
        tuple(notes),
    )
    if control and how.by != "random":
        other = load_model(run.checkpoints[-1].path, run.task.auto, merge=False)
        drawn = np.random.default_rng(seed).permutation(len(run.corpus))[: how.candidates].tolist()
        _step(run, other, drawn, None, replace(how, by="random", steps=steps or 1), seed, show)
        chance = asked.of(other)
        fixed = sum(target.fixed for target in asked.targets(before, chance))
        told = replace(told, control=asked.difference(chance, before), control_fixed=fixed)
    told = replace(told, seconds=time.monotonic() - began)
    if out is not None:
        _write(run, model, told, how, out)
    return told


def check_patchable(index: Index) -> None:
    """Raise UsageError for a task without classes."""
    run = index.run
    if text_task(run.task) is not None:
        raise UsageError(f"{run.folder}: patches are for classification so far; this run is {run.task.kind}.")


def read_patch(folder: Path) -> tuple[str, ...]:
    """Return what came of a patch, in sentences, from what it wrote into its run; nothing where it wrote none.

    Raises HeadwaterError for a file that is no patch's.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    facts = read_json(path)
    try:
        said = [f"{facts['fixed']} of {len(facts['targets'])} answers fixed in {facts['steps']} steps."]
        for name, key in (("Other held-out rows", "others"), ("The same steps on random rows", "control")):
            found = facts[key]
            if found is not None:
                points = [100 * found["accuracy"][end] for end in ("value", "low", "high")]
                change = "{:+.1f} points of accuracy ({:+.1f} to {:+.1f})".format(*points).replace("-", "−")
                said.append(f"{name}: {found['fixed']:,} fixed, {found['broken']:,} broken, {change}.")
        return (*said, *map(str, facts["notes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise HeadwaterError(f"{path}: this is not what a patch writes ({error!r}).") from None


def ranked(
    index: Index, model: PreTrainedModel, targets: Corpus, how: Patching, *, seed: int = 0, show: bool | None = None
) -> tuple[list[int], list[str]]:
    """Return the rows that speak most for the targets' labels, the strongest first, and what there is to say of them.

    Raises StoreError where the index lacks what `how.by` reads.
    """
    if how.by == "random":
        return np.random.default_rng(seed).permutation(len(index.corpus))[: how.candidates].tolist(), []
    method = "representation-cosine" if how.by == "representation" else "tracin-we"
    labels = [example.label for example in targets]
    if any(label is None for label in labels):
        raise DataError(f"{targets.name}: each target needs its right label.")
    scores = np.asarray(index.scores(targets, labels, method=method, show=show), dtype=np.float64).mean(axis=0)
    if how.by == "representation":  # near rows that carry the right label
        wanted = {str(label) for label in labels}
        scores[[str(example.label) not in wanted for example in index.corpus]] = -np.inf
    order = [int(row) for row in np.argsort(-scores, kind="stable")[: how.candidates] if scores[row] > 0]
    if how.by == "lissa":
        return _by_lissa(index.run, model, targets, order, how, seed, show)
    notes = [] if order else ["No row speaks for these labels: nothing was stepped on."]
    return order, notes


def tail(model: PreTrainedModel) -> list[nn.Parameter]:
    """The parameters of the last quarter of the layers and of the head; without layers, all but the embeddings."""
    stacks = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    name, stack = max(stacks, key=lambda each: len(each[1]), default=("", None))
    embeddings = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    found = []
    for path, parameter in model.named_parameters():
        if id(parameter) in embeddings or not parameter.requires_grad or ".embeddings." in path:
            continue
        if stack is not None and len(stack) >= 4 and path.startswith(name + "."):
            place = int(path[len(name) + 1 :].split(".")[0])
            if place < len(stack) - max(1, len(stack) // 4):
                continue
        found.append(parameter)
    return found


def _by_lissa(
    run: Run, model: PreTrainedModel, targets: Corpus, order: Sequence[int], how: Patching, seed: int, show: bool | None
) -> tuple[list[int], list[str]]:
    """Order candidates by  s . grad loss(row),  s = H^-1 grad loss(targets): positive helps the targets."""
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")  # fused attention has no second derivative
    began, parameters = time.monotonic(), tail(model)
    drawn = np.random.default_rng(seed)
    wanted = torch.autograd.grad(_loss(run, model, targets, range(len(targets))), parameters)
    solved = solve(
        lambda _: _loss(run, model, run.corpus, drawn.integers(len(run.corpus), size=8).tolist()),
        parameters,
        [each.detach() for each in wanted],
        seconds=how.seconds / 2,
    )
    scores: list[tuple[float, int]] = []
    with progress_bar("gradients of candidates", len(order), show=show) as advance:
        for row in order:
            mine = torch.autograd.grad(_loss(run, model, run.corpus, [row]), parameters)
            product = sum(float((one * other).sum()) for one, other in zip(mine, solved.vector, strict=True))
            scores.append((-product, row))
            advance(1)
            if time.monotonic() - began > how.seconds:
                break
    notes = [f"LiSSA: {solved.steps} steps at scale {solved.scale:.3g}, {len(scores)} of {len(order)} candidates."]
    return [row for score, row in sorted(scores) if score < 0], notes


class _Asked:
    """The targets and the other held-out rows, asked of one model after the other."""

    def __init__(self, run: Run, targets: Corpus, others: Corpus | None) -> None:
        self._run, self._targets = run, targets
        texts = {(str(row.text), row.text_pair) for row in targets}
        kept = [] if others is None else [r.row for r in others if (str(r.text), r.text_pair) not in texts]
        self._others = None if others is None or not kept else others.take(kept)

    def of(self, model: PreTrainedModel) -> tuple[Predictions, Predictions | None]:
        model.eval()  # type: ignore[no-untyped-call]
        run = self._run
        mine = predict(model, run.tokenizer, run.task, self._targets, show=False)
        if self._others is None:
            return mine, None
        return mine, predict(model, run.tokenizer, run.task, self._others, show=False)

    def targets(self, before: tuple[Predictions, Any], after: tuple[Predictions, Any]) -> tuple[Target, ...]:
        one, two = before[0], after[0]
        chances: list[Float64[np.ndarray, " rows"]] = [np.asarray(each.true_probabilities) for each in (one, two)]
        return tuple(
            Target(str(row.text), label, was, now, float(p), float(q))
            for row, label, was, now, p, q in zip(
                self._targets, one.true_labels, one.predicted, two.predicted, *chances, strict=True
            )
        )

    @staticmethod
    def difference(after: tuple[Any, Predictions | None], before: tuple[Any, Predictions | None]) -> Difference | None:
        if after[1] is None or before[1] is None:
            return None
        one, two = (Told(each.correct[None], each.losses[None]) for each in (after[1], before[1]))
        return difference(one, two)


def _step(
    run: Run,
    model: PreTrainedModel,
    order: Sequence[int],
    targets: Corpus | None,
    how: Patching,
    seed: int,
    show: bool | None,
) -> tuple[list[int], int]:
    """Step down the loss of the rows, the strongest first and round again, until the targets are right."""
    if not order:
        return [], 0
    drawn = np.random.default_rng([seed, 1])
    optimizer = torch.optim.Adam(only_trained(model, run), lr=how.learning_rate)
    model.eval()  # type: ignore[no-untyped-call]
    used: list[int] = []
    steps = 0
    with progress_bar("patching", how.steps, unit="steps", show=show) as advance:
        for number in range(how.steps):
            first = number * how.rows % len(order)
            rows = [order[(first + place) % len(order)] for place in range(min(how.rows, len(order)))]
            replayed = drawn.integers(len(run.corpus), size=how.replay).tolist()
            optimizer.zero_grad(set_to_none=True)
            _loss(run, model, run.corpus, [*rows, *replayed]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            used += [row for row in rows if row not in used]
            steps += 1
            advance(1)
            if targets is not None and predict(model, run.tokenizer, run.task, targets, show=False).correct.all():
                break
    return used, steps


def _loss(run: Run, model: PreTrainedModel, corpus: Corpus, rows: Sequence[int]) -> Tensor:
    chosen = corpus.take(list(rows))
    targets = corpus_targets(run.task, chosen, model.config)
    batch = run.task.collate(run.task.encode(run.tokenizer, list(chosen)), run.tokenizer)
    with torch.enable_grad():
        loss: Tensor = run.task.batch_loss(model, batch, torch.tensor(targets))
    return loss


def _write(run: Run, model: PreTrainedModel, told: Patched, how: Patching, out: Path) -> None:
    """Write the child run: its checkpoint first, its record last, all beside `out` until it is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        made = Path(folder) / "run"
        model.save_pretrained(made / CHECKPOINT)
        if hasattr(model, "peft_config"):
            model.config.save_pretrained(made / CHECKPOINT)
        run.tokenizer.save_pretrained(made / CHECKPOINT)
        facts = {"run": run.name, "corpus": run.corpus.fingerprint, "how": asdict(how), **told.to_dict()}
        write_json(made / FILE, facts)
        if out.exists():
            out.rmdir()
        shutil.move(made, out)
    Run.create(
        out, checkpoints=[(out / CHECKPOINT, 1.0)], corpus=run.corpus, task=run.task, eval_corpus=run.eval_corpus
    )
