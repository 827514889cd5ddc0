"""Rates rebuilt from a plain Trainer folder are those that were really taken, or it is an error or a warning."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerCallback, get_scheduler

import builders
from headwater.errors import RunError
from headwater.runs.rebuild import SCHEDULES, rebuilt_weights


class Watch(TrainerCallback):
    """An oracle: adds up the rate that the optimizer really held in each step, between saves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sums: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.now += given["optimizer"].param_groups[0]["lr"]

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.sums.append(self.now)
        self.now = 0.0


def trained(folder: Path, **arguments: Any) -> tuple[list[Path], list[float]]:
    watch = Watch()
    builders.train_plainly(folder, builders.rows(24), callbacks=[watch], **({"num_train_epochs": 4} | arguments))
    paths = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return paths, watch.sums


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("total", [1, 7, 40])
def test_our_formulas_are_those_of_transformers(schedule: str, total: int) -> None:
    for warmup in {0, 1, total // 3, total - 1}:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        name = "constant_with_warmup" if schedule == "constant" else schedule
        real = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
        expected = [real.lr_lambdas[0](step) for step in range(total + 1)]
        np.testing.assert_allclose(SCHEDULES[schedule](np.arange(total + 1), warmup, total), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"warmup_steps": 4},
        {"warmup_steps": 0.1},
        {"lr_scheduler_type": "cosine"},
        {"lr_scheduler_type": "cosine", "warmup_steps": 4},
        {"lr_scheduler_type": "constant"},
        {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2},
        {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5},
        {"gradient_accumulation_steps": 2},
        {"save_strategy": "steps", "save_steps": 5},
        {"save_only_model": True, "logging_strategy": "steps", "logging_steps": 1, "warmup_steps": 2},
    ],
    ids=str,
)
def test_rebuilt_weights_are_the_sums_of_the_rates_taken(arguments: dict[str, Any], tmp_path: Path) -> None:
    paths, sums = trained(tmp_path, **arguments)
    rebuilt = rebuilt_weights(paths)
    assert rebuilt.weights == pytest.approx(sums, rel=1e-6)
    assert rebuilt.warning == ""


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_two_epochs_alone_leave_linear_and_cosine_apart_only_by_their_name(schedule: str, tmp_path: Path) -> None:
    """Half way both are at one half: nothing but the arguments tells which it was."""
    paths, sums = trained(tmp_path, num_train_epochs=2, lr_scheduler_type=schedule)
    assert rebuilt_weights(paths).weights == pytest.approx(sums) and rebuilt_weights(paths).warning == ""
    for path in paths:
        (path / "training_args.bin").unlink()
    assert "linear (taken), cosine." in rebuilt_weights(paths).warning


def test_arguments_that_contradict_the_rates_are_not_believed(tmp_path: Path) -> None:
    paths, sums = trained(tmp_path / "a", lr_scheduler_type="cosine")
    others, _ = trained(tmp_path / "b", warmup_steps=5)
    for path, other in zip(paths, others, strict=True):
        shutil.copy(other / "training_args.bin", path)
    assert rebuilt_weights(paths).weights == pytest.approx(sums)


def test_no_code_is_run_from_the_arguments(tmp_path: Path) -> None:
    paths, sums = trained(tmp_path)
    torch.save({"lr_scheduler_type": Exploding()}, paths[-1] / "training_args.bin")
    assert rebuilt_weights(paths).weights == pytest.approx(sums)
    (paths[-1] / "training_args.bin").write_bytes(b"no zip file")
    assert rebuilt_weights(paths).weights == pytest.approx(sums)


def test_the_weight_of_the_last_checkpoint_is_not_the_zero_rate_at_it(tmp_path: Path) -> None:
    paths, sums = trained(tmp_path)
    rebuilt = rebuilt_weights(paths[-1:])
    assert rebuilt.rates == [0.0]
    assert rebuilt.weights == [pytest.approx(sum(sums))]


def test_the_steps_of_a_deleted_checkpoint_count_to_the_next(tmp_path: Path) -> None:
    paths, sums = trained(tmp_path)
    kept = [paths[0], paths[3]]
    assert rebuilt_weights(kept).weights == pytest.approx([sums[0], sum(sums[1:])])


@pytest.mark.parametrize("arguments", [{}, {"warmup_steps": 1}])
def test_schedules_that_cannot_be_told_apart_are_told(arguments: dict[str, Any], tmp_path: Path) -> None:
    kind = "constant_with_warmup" if arguments else "constant"
    paths, _ = trained(tmp_path, lr_scheduler_type=kind, **arguments)
    for path in paths:
        (path / "training_args.bin").unlink()
    rebuilt = rebuilt_weights(paths)
    assert "several schedules fit" in rebuilt.warning and "constant (taken)" in rebuilt.warning
    assert rebuilt_weights(paths[-1:]).warning == ""  # one checkpoint has all the weight whatever the schedule


@pytest.mark.parametrize("schedule", ["polynomial", "inverse_sqrt", "cosine_with_restarts"])
def test_a_schedule_that_we_do_not_know_asks_for_the_weights(schedule: str, tmp_path: Path) -> None:
    options = {"lr_scheduler_kwargs": {"num_cycles": 3}} if schedule == "cosine_with_restarts" else {}
    paths, _ = trained(tmp_path, lr_scheduler_type=schedule, logging_strategy="steps", logging_steps=2, **options)
    with pytest.raises(RunError, match=r"cannot be rebuilt\. .*Run\.create\(folder, checkpoints=\[\(path, weight\)"):
        rebuilt_weights(paths)


def test_a_schedule_that_follows_a_metric_asks_for_the_weights(tmp_path: Path) -> None:
    paths, _ = trained(tmp_path)
    torch.save({"best": 0.1, "_last_lr": [0.1], "last_epoch": 3}, paths[0] / "scheduler.pt")
    with pytest.raises(RunError, match="not a schedule of steps alone"):
        rebuilt_weights(paths)


def test_parameters_at_different_rates_ask_for_the_weights(tmp_path: Path) -> None:
    paths, _ = trained(tmp_path)
    state = torch.load(paths[0] / "scheduler.pt")
    torch.save(state | {"base_lrs": [1e-3, 1e-4]}, paths[0] / "scheduler.pt")
    with pytest.raises(RunError, match="different rates"):
        rebuilt_weights(paths)


def test_nothing_to_read_asks_for_the_weights_and_no_code_is_run_from_a_file(tmp_path: Path) -> None:
    paths, _ = trained(tmp_path / "run", save_only_model=True)
    with pytest.raises(RunError, match=r"neither scheduler\.pt nor a logged learning rate"):
        rebuilt_weights(paths)
    torch.save({"base_lrs": [Exploding()], "last_epoch": 1, "_last_lr": [0.1]}, paths[0] / "scheduler.pt")
    with pytest.raises(RunError, match="cannot be read without running code"):
        rebuilt_weights(paths)
    (paths[0] / "scheduler.pt").write_bytes(b"")
    with pytest.raises(RunError, match="cannot be read"):
        rebuilt_weights(paths)
    (paths[-1] / "trainer_state.json").write_text("[]")
    with pytest.raises(RunError, match="not a Trainer's state"):
        rebuilt_weights(paths[-1:])
    (paths[-1] / "trainer_state.json").unlink()
    with pytest.raises(RunError, match=r"trainer_state\.json: no such file"):
        rebuilt_weights(paths[-1:])


class Exploding:
    """Anyone who unpickles it stops."""

    def __reduce__(self) -> Any:
        return (sys.exit, ("code was run",))


def test_rates_logged_after_the_step_as_transformers_4_did_are_understood(tmp_path: Path) -> None:
    paths, sums = trained(tmp_path, logging_strategy="steps", logging_steps=1, save_only_model=True, warmup_steps=3)
    for path in paths:
        state = json.loads((path / "trainer_state.json").read_text())
        rates = [entry["learning_rate"] for entry in state["log_history"]]
        for entry, following in zip(state["log_history"], [*rates[1:], 1e-3 / 9], strict=True):
            entry["learning_rate"] = following
        (path / "trainer_state.json").write_text(json.dumps(state))
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"transformers_version": "4.40.0"}))
    last = json.loads((paths[-1] / "trainer_state.json").read_text())
    last["log_history"][-1]["learning_rate"] = 0.0
    (paths[-1] / "trainer_state.json").write_text(json.dumps(last))
    assert rebuilt_weights(paths).weights == pytest.approx(sums, rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    schedule=st.sampled_from(["linear", "cosine"]),
    total=st.integers(8, 400),
    warm=st.floats(0, 0.4),
    base=st.floats(1e-6, 1.0),
)
def test_any_schedule_of_ours_is_found_from_evenly_saved_checkpoints_or_doubted(
    schedule: str, total: int, warm: float, base: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rates")
    warmup = int(warm * total)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=base)
    real = get_scheduler(schedule, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    rates = [base * real.lr_lambdas[0](step) for step in range(total + 1)]
    stops = [total * part // 4 for part in (1, 2, 3, 4)]
    paths = []
    for stop in stops:
        path = folder / f"checkpoint-{stop}"
        path.mkdir()
        torch.save({"base_lrs": [base], "last_epoch": stop, "_last_lr": [rates[stop]]}, path / "scheduler.pt")
        state = {"global_step": stop, "max_steps": total, "log_history": []}
        (path / "trainer_state.json").write_text(json.dumps(state))
        paths.append(path)
    expected = [sum(rates[a:b]) for a, b in zip([0, *stops[:-1]], stops, strict=True)]
    rebuilt = rebuilt_weights(paths)
    assert rebuilt.warning or rebuilt.weights == pytest.approx(expected, rel=0.05)
