"""The bank: what it holds is what retraining says, in any order, in any number of processes, after any kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import builders
from headwater.errors import DataError, HeadwaterError, HeadwaterWarning, RunError, StoreError, UsageError
from headwater.evaluation.bank import RetrainBank, estimate, half, leave_k_out, remove
from headwater.evaluation.bank.workers import Worker, work
from headwater.evaluation.ceiling import ceiling
from headwater.runs import Classification, Columns, Corpus, CustomLoss, Recipe, Run
from headwater.store.lock import writer_lock
from headwater.training import TrainSettings, predict, retrain, train
from headwater.training.repeat import Arithmetic

SETTINGS = TrainSettings(
    model="textcnn", epochs=2, batch_size=8, max_length=16, learning_rate=1e-2, checkpoints=1, device="cpu"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(Corpus.read(builders.rows(32)), Classification(), tmp_path_factory.mktemp("run") / "r", SETTINGS)


@pytest.fixture(scope="module")
def queries() -> Corpus:
    return Corpus.read(builders.rows(5, seed=7), name="asked")


@pytest.fixture(scope="module")
def filled(run: Run, queries: Corpus, tmp_path_factory: pytest.TempPathFactory) -> RetrainBank:
    """4 halves, 2 seeds, retrained in this process; tests only read it."""
    bank = RetrainBank.create(run, tmp_path_factory.mktemp("bank") / "b", queries, subsets=4)
    assert bank.fill(processes=1) == 8
    return bank


def files(bank: RetrainBank) -> dict[str, bytes]:
    """Everything but the times."""
    paths = [path for path in bank.folder.rglob("*") if path.is_file() and path.name not in ("times.jsonl", ".lock")]
    return {str(path.relative_to(bank.folder)): path.read_bytes() for path in paths}


def test_every_number_is_what_retraining_by_hand_gives(filled: RetrainBank, run: Run, queries: Corpus) -> None:
    found = filled.results()
    assert found.losses.shape == (4, 2, 5) and found.losses.dtype == np.float32
    targets = [run.label2id[str(row.label)] for row in queries]
    for number, mask in enumerate(found.masks):
        assert mask.sum() == 16
        for place, seed in enumerate(found.seeds):
            model = retrain(run, rows=np.flatnonzero(mask).tolist(), seed=seed)
            predictions = predict(model, run.tokenizer, run.task, queries)
            np.testing.assert_allclose(found.losses[number, place], predictions.losses, rtol=1e-6)
            np.testing.assert_allclose(found.probabilities[number, place], predictions.true_probabilities, rtol=1e-6)
            chances = predictions.true_probabilities.astype(np.float64)
            np.testing.assert_allclose(found.margins[number, place], np.log(chances / (1 - chances)), rtol=1e-4)
            np.testing.assert_array_equal(found.logits[number, place], predictions.logits[range(5), targets])
            np.testing.assert_array_equal(found.correct[number, place], predictions.correct)
    assert (found.seconds > 0).all()
    assert found.protocol == ("half (50% of the rows at random, seed 0); same first weights; 4 subsets, 2 seeds each")
    np.testing.assert_array_equal(filled.losses, found.losses)
    assert len({mask.tobytes() for mask in filled.masks}) == 4
    assert 0 <= ceiling(found.losses).mean.value <= 1


def test_processes_and_another_order_give_the_same_bytes(
    filled: RetrainBank, run: Run, queries: Corpus, tmp_path: Path
) -> None:
    """Seeds and subsets come later and in another order here, and two processes share the work."""
    bank = RetrainBank.create(run, tmp_path / "b", queries, subsets=1, seeds=[1])
    assert bank.fill(processes=1, most=1) == 1
    bank = RetrainBank.create(run, tmp_path / "b", queries, subsets=4, seeds=[0])
    assert bank.seeds == (1, 0)
    threads = torch.get_num_threads()
    assert bank.fill(processes=2) == 7
    assert torch.get_num_threads() == threads
    assert bank.missing() == []
    theirs, ours = files(filled), files(bank)
    retrains = [name for name in theirs if name.startswith("retrains")]
    assert len(retrains) == 8 and theirs.keys() == ours.keys()
    assert all(theirs[name] == ours[name] for name in [*retrains, "subsets.safetensors", "queries.parquet"])
    np.testing.assert_array_equal(bank.results(seeds=(0, 1)).losses, filled.losses)
    assert not np.isnan(bank.results().seconds).any()


KILLED = """
import sys
from pathlib import Path
from headwater.evaluation.bank import RetrainBank
from headwater.runs import Run

bank = RetrainBank.open(Path(sys.argv[2]), Run.open(sys.argv[1]))
print("begun", flush=True)
bank.fill(processes=1)
"""


def test_a_killed_process_loses_what_it_has_in_hand_and_no_more(
    filled: RetrainBank, run: Run, queries: Corpus, tmp_path: Path
) -> None:
    bank = RetrainBank.create(run, tmp_path / "b", queries, subsets=4)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(run.folder), str(bank.folder)], stdout=subprocess.PIPE
    )
    retrains = bank.folder / "retrains"
    while process.poll() is None and len(list(retrains.glob("*.safetensors"))) < 2:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(retrains.glob("*.safetensors")))
    assert 2 <= done < 8
    (retrains / ".000003-1.safetensors.xy.part").write_bytes(b"half")
    with (bank.folder / "times.jsonl").open("a") as file:
        file.write('{"subset": 3, "se')
    again = RetrainBank.open(bank.folder, run)
    assert len(again.missing()) == 8 - done
    assert again.fill(processes=1) == 8 - done
    assert files(again) == files(filled)


def test_masks_follow_from_protocol_seed_and_number_alone(run: Run, queries: Corpus, tmp_path: Path) -> None:
    bank = RetrainBank.create(run, tmp_path / "b", queries, protocol=leave_k_out(3, seed=4), subsets=6)
    assert (bank.manifest.masks.sum(axis=1) == 29).all()
    smaller = RetrainBank.create(run, tmp_path / "s", queries, protocol=leave_k_out(3, seed=4), subsets=2)
    smaller.grow(6)
    np.testing.assert_array_equal(smaller.manifest.masks, bank.manifest.masks)
    smaller.grow(3)  # never fewer
    assert len(smaller.manifest.masks) == 6
    share = leave_k_out(share=0.1)
    assert share.draw(1000, 0).sum() == 900 and half().draw(33, 5).sum() == 16
    assert not np.array_equal(half(seed=1).draw(50, 0), half(seed=2).draw(50, 0))
    counts = np.mean([half().draw(20, number) for number in range(2000)], axis=0)
    assert np.abs(counts - 0.5).max() < 0.06  # every row as often as any other: five standard deviations


@pytest.mark.parametrize("arithmetic", ["exact", "quick"])
def test_fresh_first_weights_are_those_of_a_new_training_with_that_seed(
    run: Run, queries: Corpus, tmp_path: Path, arithmetic: Arithmetic
) -> None:
    bank = RetrainBank.create(
        run,
        tmp_path / "b",
        queries,
        protocol=remove(),
        subsets=[()],
        seeds=[0, 6],
        first_weights="fresh",
        arithmetic=arithmetic,
    )
    bank.fill(processes=1)
    assert "fresh first weights" in bank.results().protocol
    for place, seed in enumerate(bank.seeds):
        anew = train(run.corpus, Classification(), tmp_path / str(seed), replace(SETTINGS, seed=seed))
        losses = predict(anew.checkpoints[-1].load(), anew.tokenizer, anew.task, queries).losses
        np.testing.assert_allclose(bank.losses[0, place], losses, rtol=0 if arithmetic == "exact" else 1e-3)
    ordered = RetrainBank.create(run, tmp_path / "o", queries, protocol=remove(), subsets=[()], seeds=[6])
    ordered.fill(processes=1)
    assert np.abs(ordered.losses[0, 0] - bank.losses[0, 1]).max() > 1e-2
    with pytest.raises(StoreError, match="first weights same, not fresh"):
        RetrainBank.create(run, tmp_path / "o", queries, protocol=remove(), first_weights="fresh")


def test_named_rows_are_left_out_and_equal_sets_are_retrained_once(run: Run, queries: Corpus, tmp_path: Path) -> None:
    bank = RetrainBank.create(run, tmp_path / "b", queries, protocol=remove(), subsets=[(), (3, 1)], seeds=[0])
    assert bank.add([(1, 3), (5,), [5, 5], np.array([], dtype=np.int64).tolist()]) == [1, 2, 2, 0]
    assert RetrainBank.open(bank.folder).manifest.masks.shape == (3, 32)
    bank.fill(processes=1)
    assert bank.results().removals == [(), (1, 3), (5,)]
    untouched = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, queries)
    np.testing.assert_array_equal(bank.losses[0, 0], untouched.losses)  # the run's own seed, all rows: the run itself
    assert not np.array_equal(bank.losses[1], bank.losses[0])
    with pytest.raises(UsageError, match=r"row 32 .* 32 rows"):
        bank.add([(32,)])
    with pytest.raises(UsageError, match="leaves nothing"):
        bank.add([range(32)])
    with pytest.raises(UsageError, match="name them"):
        bank.grow(9)
    assert len(bank.manifest.masks) == 3


def test_another_bank_in_the_same_folder_is_refused_and_the_message_says_what_differs(
    filled: RetrainBank, run: Run, queries: Corpus, tmp_path: Path
) -> None:
    folder = filled.folder
    before = files(filled)
    with pytest.raises(StoreError, match=r"is of something else: number of queries 5, not 2\. Choose"):
        RetrainBank.create(run, folder, queries.take([0, 1]))
    flipped = ["bad" if row.label == "good" else "good" for row in queries]
    with pytest.raises(StoreError, match=r"else: queries [0-9a-f]{8}, not [0-9a-f]{8}\. "):
        RetrainBank.open(folder, run, queries=queries, labels=flipped)
    with pytest.raises(StoreError, match=r"protocol name half, seed 0, not name leave-k-out, k 2, seed 0"):
        RetrainBank.create(run, folder, queries, protocol=leave_k_out(2))
    with pytest.raises(StoreError, match=r"protocol .*seed 0, not .*seed 1"):
        RetrainBank.open(folder, protocol=half(seed=1))
    with pytest.raises(StoreError, match="arithmetic exact, not quick"):
        RetrainBank.create(run, folder, queries, arithmetic="quick")
    recipe = run.need_recipe()
    other = replace(run, recipe=Recipe(recipe.arguments | {"learning_rate": 1.0}, recipe.initial, None, recipe.seed))
    with pytest.raises(StoreError, match=r"recipe .*, not "):
        RetrainBank.open(folder, other)
    with pytest.raises(StoreError, match=r"corpus .*, not "):
        RetrainBank.open(folder, replace(run, corpus=run.corpus.take(range(31))))
    assert RetrainBank.open(folder, run, queries=queries, protocol=half()).missing() == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="not empty, and no bank"):
        RetrainBank.create(run, tmp_path / "full", queries)
    with pytest.raises(StoreError, match="there is no bank"):
        RetrainBank.open(tmp_path / "none")
    assert files(filled) == before


def test_a_bank_is_read_without_its_run_but_not_filled(filled: RetrainBank) -> None:
    bank = RetrainBank.open(filled.folder)
    np.testing.assert_array_equal(bank.margins, filled.margins)
    with pytest.raises(RunError, match="opened without its run"):
        bank.fill()


def test_damage_is_found(filled: RetrainBank, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(filled.folder, folder)
    victim = folder / "retrains" / "000001-0.safetensors"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-3] + b"abc")
    with pytest.raises(StoreError, match=r"000001-0.safetensors: damaged"):
        _ = RetrainBank.open(folder).losses
    victim.write_bytes(whole[:40])
    with pytest.raises(StoreError, match="damaged"):
        _ = RetrainBank.open(folder).losses
    victim.write_bytes((folder / "retrains" / "000002-0.safetensors").read_bytes())
    with pytest.raises(StoreError, match="of another bank, subset or seed"):
        _ = RetrainBank.open(folder).losses
    victim.unlink()
    assert RetrainBank.open(folder).subsets.tolist() == [0, 2, 3]  # the others are there all the same
    assert RetrainBank.open(folder, run).fill(processes=1) == 1
    assert victim.read_bytes() == whole
    told = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps(told | {"format": 99}))
    with pytest.raises(StoreError, match="newer"):
        RetrainBank.open(folder)
    for wrong in ({"masks": "0" * 32}, {"identity": {"rows": 32}}, {"subsets": 5}):
        (folder / "bank.json").write_text(json.dumps(told | wrong))
        with pytest.raises(StoreError, match="damaged"):
            RetrainBank.open(folder)
    (folder / "bank.json").write_text("[]")
    with pytest.raises(StoreError, match="damaged"):
        RetrainBank.open(folder)


def test_one_writer_at_a_time(run: Run, queries: Corpus, tmp_path: Path) -> None:
    bank = RetrainBank.create(run, tmp_path / "b", queries, subsets=1)
    with writer_lock(bank.folder), pytest.raises(StoreError, match=rf"process {os.getpid()} .* writing to this bank"):
        bank.fill()


def test_questions_that_cannot_be_asked_are_refused_before_anything_is_written(
    run: Run, queries: Corpus, tmp_path: Path
) -> None:
    bare = Corpus.read([{"text": row.text} for row in queries], Columns(label=None))
    with pytest.raises(DataError, match="no labels"):
        RetrainBank.create(run, tmp_path / "b", bare)
    with pytest.raises(DataError, match="label 'odd'"):
        RetrainBank.create(run, tmp_path / "b", bare, ["odd"] * 5)
    with pytest.raises(UsageError, match="2 labels for 5 queries"):
        RetrainBank.create(run, tmp_path / "b", bare, ["good", "bad"])
    last = run.checkpoints[-1].path
    made = Run.create(tmp_path / "m", checkpoints=[(last, 1.0)], corpus=run.corpus, task=run.task)
    with pytest.raises(RunError, match="cannot be trained again"):
        RetrainBank.create(made, tmp_path / "b", queries)
    assert not (tmp_path / "b").exists()
    with pytest.raises(UsageError, match=r"32 would be left out"):
        RetrainBank.create(run, tmp_path / "b", queries, protocol=leave_k_out(32), subsets=1)
    for wrong in ({"share": 1.0}, {"k": 0}, {}, {"k": 1, "share": 0.1}):
        with pytest.raises(UsageError):
            leave_k_out(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="seed must be"):
        RetrainBank.create(run, tmp_path / "c", queries, seeds=[-1])


def test_given_labels_are_the_ones_that_are_graded(run: Run, queries: Corpus, tmp_path: Path) -> None:
    bare = Corpus.read([{"text": row.text} for row in queries], Columns(label=None))
    flipped = ["bad" if row.label == "good" else "good" for row in queries]
    banks = [
        RetrainBank.create(run, tmp_path / name, bare, labels, subsets=1, seeds=1)
        for name, labels in (("own", [str(row.label) for row in queries]), ("flipped", flipped))
    ]
    for bank in banks:
        bank.fill(processes=1)
    np.testing.assert_allclose(banks[0].margins, -banks[1].margins, rtol=1e-5)  # two classes


def test_a_loss_of_the_user_s_own_is_retrained_here_since_no_other_process_knows_it(
    run: Run, queries: Corpus, tmp_path: Path
) -> None:
    own = replace(run, task=CustomLoss(run.task, squared))
    bank = RetrainBank.create(own, tmp_path / "b", queries, subsets=1, seeds=2)
    with pytest.warns(HeadwaterWarning, match="this process retrains alone"):
        assert bank.fill(processes=2) == 2
    model = retrain(own, rows=np.flatnonzero(bank.masks[0]).tolist(), seed=1)
    np.testing.assert_array_equal(bank.losses[0, 1], predict(model, run.tokenizer, own.task, queries).losses)


def squared(model, batch, targets):  # type: ignore[no-untyped-def]
    chances = model(**batch).logits.softmax(dim=-1)
    return 1 - chances[torch.arange(len(targets)), targets]


def test_a_worker_s_error_is_one_line_here(run: Run, queries: Corpus, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "r")
    wild = tmp_path / "r" / "headwater" / "recipe.json"
    told = json.loads(wild.read_text())
    told["arguments"] |= {"learning_rate": 1e38, "optim": "sgd", "warmup_steps": 0}
    wild.write_text(json.dumps(told))
    bank = RetrainBank.create(Run.open(tmp_path / "r"), tmp_path / "b", queries, subsets=2, seeds=1)
    items = iter(bank.missing())
    with pytest.raises(HeadwaterError, match="the training diverged"):
        work(lambda: Worker(tmp_path / "r", bank.folder, 1), 1, lambda: next(items, None), lambda *_: None)
    assert len(bank.missing()) == 2


def test_the_budget_is_kept_with_fewer_subsets(run: Run, queries: Corpus, tmp_path: Path) -> None:
    bank = RetrainBank.create(run, tmp_path / "b", queries, subsets=500, seeds=2)
    assert bank.fill(until=time.monotonic() - 1, processes=1) == 0
    told = estimate(bank, processes=1)
    assert (told.retrainings, told.subsets) == (999, 500)  # the one that was timed is kept
    assert told.seconds == pytest.approx(999 * told.seconds_each)
    assert told.affordable(told.seconds / 2) == 250 and told.affordable(2 * told.seconds) == 500
    assert estimate(bank, processes=2).seconds == pytest.approx(told.seconds / 2)
    until = time.monotonic() + max(1.0, 20 * told.seconds_each)  # some, on however busy a machine, and not all
    done = bank.fill(until=until, processes=1)
    assert 0 < done < 999
    assert len(bank.missing()) == 999 - done
    assert len(bank.subsets) == (1 + done) // 2


def test_the_clock_ends_a_training_in_its_middle(run: Run, queries: Corpus, tmp_path: Path) -> None:
    recipe = run.need_recipe()
    long = replace(run, recipe=Recipe(recipe.arguments | {"num_train_epochs": 1e6}, recipe.initial, None, recipe.seed))
    steps = replace(
        run,
        recipe=Recipe(
            recipe.arguments | {"num_train_epochs": 1e6, "gradient_accumulation_steps": 2},
            recipe.initial,
            None,
            recipe.seed,
        ),
    )
    for name, endless in (("repeated", long), ("plain", steps)):
        bank = RetrainBank.create(endless, tmp_path / name, queries, subsets=2, seeds=1)
        assert bank.fill(until=time.monotonic() + 0.7, processes=1) == 0
        assert len(bank.missing()) == 2


def test_processes_are_ended_by_the_clock(run: Run, queries: Corpus, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "r")
    path = tmp_path / "r" / "headwater" / "recipe.json"
    told = json.loads(path.read_text())
    told["arguments"]["num_train_epochs"] = 1e6
    path.write_text(json.dumps(told))
    bank = RetrainBank.create(Run.open(tmp_path / "r"), tmp_path / "b", queries, subsets=2, seeds=1)
    assert bank.fill(until=time.monotonic() + 1.0, processes=2) == 0
    assert len(bank.missing()) == 2
