"""The whole suite against what is known: in a convex world, where retraining is free of noise, and in one that is not.

An oracle (the true effect of leaving a row out, or a linear fit of the bank's own losses) stands near the ceiling of
every metric, random scores near nothing, a negated method at the negative.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import builders
import headwater as hw
from headwater.evaluation.bank import RetrainBank, remove
from headwater.evaluation.ceiling import ceiling
from headwater.evaluation.metrics.groups import pearson_over_groups
from headwater.evaluation.metrics.lds import lds
from headwater.evaluation.metrics.leave_one_out import effects
from headwater.evaluation.metrics.tail_patch import tail_patch
from headwater.models.textcnn import TextCNN, TextCNNConfig
from headwater.runs import Classification, Corpus, Run
from headwater.training import TrainSettings, train

ROWS, QUERIES = 32, 6
RETRAINED = ["lds", "leave-one-out", "deletion", "qld"]
SETTINGS: dict[str, Any] = {"subsets": 24, "seeds": 1, "grid": (3,), "share": 0.1, "rows_out": ROWS, "draws": 4,
                            "k": 4, "processes": 1, "baselines": False}  # fmt: skip
CONVEX = TrainSettings(
    epochs=50, batch_size=64, max_length=16, optimizer="sgd", learning_rate=0.3, momentum=0.8, weight_decay=0.05,
    schedule="constant", warmup=0, checkpoints=1, device="cpu", freeze=("word-embeddings", "convolution*"),
)  # fmt: skip
"""Logistic regression on fixed features, all rows at once, until nothing moves: mean loss + 0.05 / 2 |w|^2."""


@dataclass(frozen=True)
class World:
    run: Run
    queries: Corpus
    bank: RetrainBank
    """Without each row alone, without each of 8 groups, and without none."""
    wrong: np.ndarray
    """Rows whose label was flipped."""
    out: Path
    """An evaluation's folder, whose bank this is: what is retrained there already is used again."""

    def effects(self, removals: list[tuple[int, ...]]) -> np.ndarray:
        """True effects [queries, removals]."""
        found = self.bank.results()
        sets = found.removals
        return effects(found.losses[[sets.index(rows) for rows in removals]], found.losses[sets.index(())])

    @property
    def truth(self) -> np.ndarray:
        return self.effects([(row,) for row in range(ROWS)])

    def graded(self, metrics: list[str], scores: dict[str, np.ndarray], **changes: Any) -> hw.Evaluation:
        """Grade influence-last and these scores, the negative of the first of them, and random ones."""
        given = scores | {"chance": chance(), "negated": -next(iter(scores.values()))}
        settings = SETTINGS | changes
        return hw.evaluate(self.run, ["influence-last"], metrics, self.queries, out=self.out, scores=given, **settings)


def chance(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(QUERIES, ROWS))


GROUPS = [tuple(range(start, start + 4)) for start in range(0, ROWS, 4)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("convex")
    small(folder / "base")
    rows: list[dict[str, Any]] = builders.rows(ROWS)
    wrong = np.zeros(ROWS, dtype=np.bool_)
    wrong[np.random.default_rng(0).permutation(ROWS)[:5]] = True
    for row, flipped in zip(rows, wrong.tolist(), strict=True):
        row["label"] = {"good": "bad", "bad": "good"}[row["label"]] if flipped else row["label"]
        row["wrong"] = flipped
    with pytest.warns(hw.errors.HeadwaterWarning, match="did not move"):
        run = train(
            Corpus.read(rows),
            Classification(max_length=16),
            folder / "run",
            replace(CONVEX, model=str(folder / "base")),
        )
    queries = Corpus.read(builders.rows(QUERIES, seed=5), name="asked")
    sets = [(), *[(row,) for row in range(ROWS)], *GROUPS]
    out = folder / "out"
    bank = RetrainBank.create(run, out / "bank" / "remove", queries, protocol=remove(), subsets=sets, seeds=1)
    bank.fill(processes=1, show=False)
    return World(run, queries, bank, wrong, out)


def small(folder: Path) -> None:
    """A TextCNN of 4 random features, far enough apart for few steps to reach the optimum."""
    tokenizer = builders.wordpiece_tokenizer(max_length=16)
    torch.manual_seed(0)
    names = {number: name for name, number in builders.LABEL2ID.items()}
    model = TextCNN(
        TextCNNConfig(vocab_size=len(tokenizer), hidden_size=8, channels=4, width=3, max_length=16,
                      label2id=builders.LABEL2ID, id2label=names)
    )  # fmt: skip
    with torch.no_grad():
        torch.nn.init.normal_(model.embedding.weight)
        model.embedding.weight[0] = 0.0
        for convolution in (model.convolution1, model.convolution2, model.convolution3):
            convolution.weight *= 1.5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def graded(world: World) -> hw.Evaluation:
    """The true effect of each row, its negative, random scores and influence-last, by everything that retrains."""
    return world.graded(RETRAINED, {"truth": world.truth})


def values(evaluation: hw.Evaluation, column: str) -> dict[str, float]:
    return {name: evaluation.cell(column, name).value for name in evaluation.methods}


def test_leave_one_out_is_one_for_the_truth_and_nearly_so_for_influence(graded: hw.Evaluation) -> None:
    found = values(graded, "leave-one-out")
    assert found["truth"] == pytest.approx(1.0, abs=1e-5)
    assert found["negated"] == pytest.approx(-1.0, abs=1e-5)
    assert found["influence-last"] > 0.9
    assert abs(found["chance"]) < 0.25


def test_lds_is_high_for_the_truth_and_for_influence(world: World, graded: hw.Evaluation) -> None:
    found = values(graded, "lds")
    assert found["truth"] > 0.8
    assert found["influence-last"] > 0.8
    assert found["negated"] == pytest.approx(-found["truth"])
    bank = RetrainBank.open(world.out / "bank" / "half-0")
    assert found["chance"] == pytest.approx(lds(chance().astype(np.float32), bank.masks, bank.losses).mean())
    drawn = [lds(chance(seed), bank.masks, bank.losses).mean() for seed in range(60)]
    assert abs(np.mean(drawn)) < 4 * np.std(drawn) / np.sqrt(len(drawn)) < 0.1


def test_deletion_falls_without_the_true_proponents_and_rises_without_the_true_opponents(graded: hw.Evaluation) -> None:
    for output in ("probability", "margin"):
        down, up = values(graded, f"del+ {output}"), values(graded, f"del- {output}")
        for name in ("truth", "influence-last"):
            assert down[name] < 0 < up[name]
            assert graded.cell(f"del+ {output} vs random", name).high < 0
            assert graded.cell(f"del- {output} vs random", name).low > 0
        assert down["negated"] == pytest.approx(up["truth"])
        assert up["negated"] == pytest.approx(down["truth"])
        assert down["truth"] / 2 < down["chance"] < up["truth"] / 2


def test_qld_is_above_zero_for_the_truth_below_for_its_negative(graded: hw.Evaluation) -> None:
    for name in ("truth", "influence-last"):
        assert graded.cell("qld", name).low > 0
    assert graded.cell("qld", "negated").high < 0
    assert abs(graded.cell("qld", "chance").value) < graded.cell("qld", "truth").value / 2


def test_groups_are_foretold_by_the_sum_of_true_effects(world: World) -> None:
    truth, whole = world.truth, world.effects(GROUPS)
    good = pearson_over_groups(truth, GROUPS, whole)
    assert good.mean() > 0.9
    np.testing.assert_allclose(pearson_over_groups(-truth, GROUPS, whole), -good)
    noise = np.random.default_rng(0).normal(size=(40, *truth.shape))
    assert abs(np.mean([pearson_over_groups(one, GROUPS, whole).mean() for one in noise])) < 0.1


def test_every_row_s_own_step_is_the_ceiling_of_tail_patch(world: World) -> None:
    every = tail_patch(world.run, world.queries, np.zeros((QUERIES, ROWS)), k=ROWS, show=False)
    steps = np.empty((QUERIES, ROWS))
    np.put_along_axis(steps, every.rows, every.probability, axis=1)
    found = values(world.graded(["tail-patch"], {"steps": steps, "truth": world.truth}), "tail-patch")
    ordered = np.sort(steps, axis=1)
    assert found["steps"] == pytest.approx(ordered[:, -4:].mean(), rel=1e-5)
    assert found["negated"] == pytest.approx(ordered[:, :4].mean(), rel=1e-5)
    assert found["negated"] < found["chance"] < found["truth"] <= found["steps"]
    assert abs(found["chance"] - steps.mean()) < 0.3 * (found["steps"] - steps.mean())


def test_planted_labels_are_found_by_who_knows_them(world: World) -> None:
    metrics = ["ndr", "auc-ndr", "mislabel"]
    known = np.tile(np.where(world.wrong, -1.0, 1.0), (QUERIES, 1))
    found = world.graded(metrics, {"known": known}, noise_column="wrong")
    for column in ("ndr@30", "auc-ndr", "mislabel"):
        assert found.cell(column, "known").value == pytest.approx(1.0)
    assert found.cell("ndr@30", "negated").value < 0.2
    assert found.cell("mislabel", "negated").value == 0.0
    assert found.cell("auc-ndr", "negated").value < found.cell("auc-ndr", "chance").value < 1.0


def test_hubs_are_seen_and_random_lists_have_none(world: World) -> None:
    hubs = np.tile(np.arange(ROWS, dtype=float), (QUERIES, 1))
    found = world.graded(["hubness"], {"hubs": hubs})
    apart = ROWS * (1 - (1 - 4 / ROWS) ** QUERIES)
    assert found.cell("distinct rows", "hubs").value == pytest.approx(4 / apart)
    assert found.cell("distinct rows", "chance").value == pytest.approx(1.0, abs=0.3)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training of all weights, whose end depends on the order of its rows."""
    folder = tmp_path_factory.mktemp("noisy")
    settings = TrainSettings(
        model="textcnn", epochs=3, batch_size=4, max_length=16, learning_rate=5e-3, checkpoints=1, device="cpu"
    )
    return train(Corpus.read(builders.rows(16)), Classification(max_length=16), folder / "run", settings)


def test_a_linear_fit_of_one_half_of_a_bank_s_losses_nears_the_ceiling_of_the_other(noisy: Run, tmp_path: Path) -> None:
    queries = Corpus.read(builders.rows(8, seed=5))
    bank = RetrainBank.create(noisy, tmp_path / "bank", queries, subsets=72, seeds=2)
    bank.fill(processes=1, show=False)
    masks, losses = bank.masks, bank.losses.astype(np.float64)
    fit = -ridge(masks[:36].astype(float), losses[:36].mean(axis=1))
    highest = ceiling(losses[36:]).mean.value
    found = lds(fit, masks[36:], losses[36:])
    assert 0.9 * highest < found.mean() < 1.1 * highest
    np.testing.assert_allclose(lds(-fit, masks[36:], losses[36:]), -found)
    noise = np.random.default_rng(0).normal(size=(20, *fit.shape))
    assert abs(np.mean([lds(one, masks[36:], losses[36:]).mean() for one in noise])) < 0.1


def ridge(inputs: np.ndarray, outputs: np.ndarray, penalty: float = 1.0) -> np.ndarray:
    """Coefficients [outputs, inputs] of least squares with an intercept that is not shrunk."""
    inputs, outputs = inputs - inputs.mean(axis=0), outputs - outputs.mean(axis=0)
    made = np.linalg.solve(inputs.T @ inputs + penalty * np.eye(inputs.shape[1]), inputs.T @ outputs)
    return np.asarray(made.T)


def test_the_same_seed_gives_the_same_table(noisy: Run, tmp_path: Path) -> None:
    queries = Corpus.read(builders.rows(2, seed=5))
    metrics = ["lds", "deletion", "qld", "tail-patch", "hubness"]
    made = []
    for name in ("one", "other"):
        asked: dict[str, Any] = {"subsets": 3, "seeds": 1, "grid": (1,), "draws": 1, "processes": 1}
        hw.evaluate(noisy, ["tracin-we"], metrics, queries, out=tmp_path / name, **asked)
        told = json.loads((tmp_path / name / "evaluation.json").read_text())
        made.append(json.dumps(without_seconds(told), indent=1))
    assert made[0] == made[1]


def without_seconds(told: Any) -> Any:
    """What does not depend on the machine's speed."""
    if isinstance(told, dict):
        return {
            name: without_seconds(value) for name, value in told.items() if name != "forecast" and "second" not in name
        }
    return [without_seconds(one) for one in told] if isinstance(told, list) else told
