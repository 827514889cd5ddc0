"""Recorder beside real trainings: what it writes is what was trained, and it can be trained again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_rebuild import Watch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import builders
from headwater.errors import DataError, HeadwaterWarning, ModelError, RunError
from headwater.runs.classification import Classification
from headwater.runs.corpus import Columns, Corpus
from headwater.runs.rebuild import rebuilt_weights
from headwater.runs.recorder import Recorder
from headwater.runs.run import Run

ROWS = builders.rows(24)


def recorder(folder: Path, rows: list[dict[str, Any]] = ROWS, task: Classification | None = None) -> Recorder:
    return Recorder(folder, corpus=Corpus.read(rows), task=task or Classification())


def record(folder: Path, **options: Any) -> list[float]:
    """Train with a Recorder; returns the sums of rates between saves as an oracle saw them."""
    watch = Watch()
    builders.train_plainly(folder, ROWS, callbacks=[recorder(folder), watch], **options)
    return watch.sums


class StopAt(TrainerCallback):
    """Ends the training after some step, as a crash would, after what was saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "options",
    [{}, {"warmup_steps": 2}, {"lr_scheduler_type": "polynomial"}, {"gradient_accumulation_steps": 2}],
    ids=str,
)
def test_weights_are_the_sums_of_the_rates_taken(options: dict[str, Any], tmp_path: Path) -> None:
    sums = record(tmp_path, num_train_epochs=3, **options)
    run = Run.open(tmp_path)
    assert [c.weight for c in run.checkpoints] == pytest.approx(sums, rel=1e-12)
    assert all(c.learning_rate is not None and c.learning_rate < c.weight for c in run.checkpoints)


def test_a_run_opens_as_it_was_trained(tmp_path: Path) -> None:
    watch = Watch()
    held = Corpus.read(builders.rows(5, seed=1))
    recording = Recorder(tmp_path, corpus=Corpus.read(ROWS, name="my.csv"), task=Classification(), eval_corpus=held)
    trainer = builders.train_plainly(tmp_path, ROWS, callbacks=[recording, watch])
    run = Run.open(tmp_path)
    assert [c.name for c in run.checkpoints] == ["checkpoint-3", "checkpoint-6"]
    assert [c.step for c in run.checkpoints] == [3, 6]
    assert run.checkpoints[-1].learning_rate == 0.0
    assert list(run.corpus) == list(Corpus.read(ROWS)) and run.corpus.name == "my.csv"
    assert run.eval_corpus is not None and list(run.eval_corpus) == list(held)
    assert run.task == Classification(max_length=32)
    assert run.label2id == builders.LABEL2ID and run.id2label == {0: "bad", 1: "good"}
    assert run.warnings == []
    model = run.checkpoints[-1].load()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert not model.training


def test_what_the_training_began_from_is_kept(tmp_path: Path) -> None:
    start = builders.tiny_model().state_dict()
    record(tmp_path)
    kept = load_file(tmp_path / "headwater" / "initial" / "model.safetensors")
    assert all(torch.equal(kept[name], start[name]) for name in kept)


def test_the_recipe_trains_the_same_weights_again(tmp_path: Path) -> None:
    record(tmp_path / "run", warmup_steps=2)
    run = Run.open(tmp_path / "run")
    recipe = run.need_recipe()
    arguments = TrainingArguments(**recipe.arguments, output_dir=str(tmp_path / "again"))
    builders.train_plainly(
        tmp_path / "again",
        ROWS,
        model=Run.open(tmp_path / "run").checkpoints[0].load().from_pretrained(recipe.initial),
        **{name: value for name, value in recipe.arguments.items() if name not in ("report_to",)},
    )
    assert arguments.warmup_steps == 2
    for name in ("checkpoint-3", "checkpoint-6"):
        first = load_file(tmp_path / "run" / name / "model.safetensors")
        again = load_file(tmp_path / "again" / name / "model.safetensors")
        assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_recipe_holds_no_secret_and_no_path_of_the_machine(tmp_path: Path) -> None:
    record(tmp_path, hub_token="hf_secret", run_name=str(tmp_path / "x"), hub_model_id="me/mine")
    for path in (tmp_path / "headwater").glob("*.json"):
        text = path.read_text()
        assert "hf_secret" not in text and str(tmp_path) not in text and "me/mine" not in text


def test_a_run_can_be_moved_as_a_whole(tmp_path: Path) -> None:
    record(tmp_path / "a")
    before = [c.weight for c in Run.open(tmp_path / "a").checkpoints]
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert [c.weight for c in Run.open(tmp_path / "b").checkpoints] == before


def test_checkpoints_may_stand_beside_the_record(tmp_path: Path) -> None:
    builders.train_plainly(tmp_path / "out", ROWS, callbacks=[recorder(tmp_path / "run")])
    run = Run.open(tmp_path / "run")
    assert [c.path for c in run.checkpoints] == [tmp_path / "out" / f"checkpoint-{step}" for step in (3, 6)]


def test_the_steps_of_checkpoints_that_trainer_deletes_count_to_the_next(tmp_path: Path) -> None:
    sums = record(tmp_path, num_train_epochs=4, save_total_limit=2)
    run = Run.open(tmp_path)
    assert [c.step for c in run.checkpoints] == [9, 12]
    assert [c.weight for c in run.checkpoints] == pytest.approx([sum(sums[:3]), sums[3]])
    listed = json.loads((tmp_path / "headwater" / "run.json").read_text())["checkpoints"]
    assert [entry["step"] for entry in listed] == [9, 12]


def test_a_checkpoint_deleted_later_gives_its_steps_to_the_next_and_says_so(tmp_path: Path) -> None:
    sums = record(tmp_path, num_train_epochs=3)
    shutil.rmtree(tmp_path / "checkpoint-6")
    with pytest.warns(HeadwaterWarning, match="checkpoint-6: deleted"):
        run = Run.open(tmp_path)
    assert [c.weight for c in run.checkpoints] == pytest.approx([sums[0], sums[1] + sums[2]])
    shutil.rmtree(tmp_path / "checkpoint-3")
    shutil.rmtree(tmp_path / "checkpoint-9")
    with pytest.raises(RunError, match="checkpoint-3: this checkpoint of the run is gone"):
        Run.open(tmp_path)


def test_a_resumed_training_keeps_the_rates_of_its_first_part(tmp_path: Path) -> None:
    whole = record(tmp_path / "whole", num_train_epochs=3)
    halted = tmp_path / "halted"
    with pytest.raises(KeyboardInterrupt):
        callbacks = [recorder(halted), StopAt(5)]
        builders.train_plainly(halted, ROWS, callbacks=callbacks, num_train_epochs=3)
    during = Run.open(halted)
    assert [c.weight for c in during.checkpoints] == pytest.approx(whole[:1])
    builders.train_plainly(halted, ROWS, callbacks=[recorder(halted)], num_train_epochs=3, resume=True)
    run, straight = Run.open(halted), Run.open(tmp_path / "whole")
    assert [(c.step, c.weight) for c in run.checkpoints] == [(c.step, c.weight) for c in straight.checkpoints]
    assert run.need_recipe().initial.is_dir()
    first, second = (load_file(r.recipe.initial / "model.safetensors") for r in (run, straight) if r.recipe)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_resumed_with_another_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        builders.train_plainly(tmp_path, ROWS, callbacks=[recorder(tmp_path), StopAt(4)])
    other = [ROWS[1], ROWS[0], *ROWS[2:]]
    with pytest.raises(RunError, match="had another corpus"):
        builders.train_plainly(tmp_path, other, callbacks=[recorder(tmp_path, other)], resume=True)
    assert Run.open(tmp_path).corpus.fingerprint == Corpus.read(ROWS).fingerprint


def test_a_training_whose_first_part_was_not_recorded_has_weights_but_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        builders.train_plainly(tmp_path / "a", ROWS, callbacks=[StopAt(5)], num_train_epochs=3)
    with pytest.warns(HeadwaterWarning, match="first 3 steps were not recorded"):
        builders.train_plainly(
            tmp_path / "a", ROWS, callbacks=[recorder(tmp_path / "a")], num_train_epochs=3, resume=True
        )
    run = Run.open(tmp_path / "a")
    sums = record(tmp_path / "b", num_train_epochs=3)
    assert [c.weight for c in run.checkpoints] == pytest.approx(sums)
    with pytest.raises(RunError, match="cannot be trained again: its first 3 steps were not recorded"):
        run.need_recipe()


def test_a_second_training_in_the_same_folder_replaces_the_first(tmp_path: Path) -> None:
    record(tmp_path, num_train_epochs=3)
    sums = record(tmp_path, save_strategy="steps", save_steps=5)
    run = Run.open(tmp_path)
    assert [c.step for c in run.checkpoints] == [5] if len(sums) == 1 else [5, 6]
    assert [c.weight for c in run.checkpoints] == pytest.approx(sums)


def test_the_group_of_the_embeddings_gives_the_weights_where_groups_differ(tmp_path: Path) -> None:
    model = builders.tiny_model()
    matrix = model.get_input_embeddings().weight
    rest = [value for value in model.parameters() if value is not matrix]
    optimizer = torch.optim.AdamW([{"params": rest, "lr": 1e-3}, {"params": [matrix], "lr": 1e-5}], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    tokenizer = builders.wordpiece_tokenizer()
    arguments = TrainingArguments(
        str(tmp_path), max_steps=4, save_steps=2, use_cpu=True, report_to="none", disable_tqdm=True
    )
    Trainer(
        model=model,
        args=arguments,
        train_dataset=builders.Encoded(ROWS, tokenizer),
        processing_class=tokenizer,
        optimizers=(optimizer, schedule),
        callbacks=[recorder(tmp_path)],
    ).train()
    run = Run.open(tmp_path)
    assert [c.weight for c in run.checkpoints] == pytest.approx([2e-5, 2e-5])
    with pytest.raises(RunError, match="cannot be trained again: its learning rates are not those"):
        run.need_recipe()


def test_an_optimizer_made_by_hand_is_no_recipe(tmp_path: Path) -> None:
    model, tokenizer = builders.tiny_model(), builders.wordpiece_tokenizer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, save_steps=2, use_cpu=True, report_to="none", disable_tqdm=True
    )
    Trainer(
        model=model,
        args=arguments,
        train_dataset=builders.Encoded(ROWS, tokenizer),
        processing_class=tokenizer,
        optimizers=(optimizer, None),
        callbacks=[recorder(tmp_path)],
    ).train()
    with pytest.raises(RunError, match="its optimizer was made by hand"):
        Run.open(tmp_path).need_recipe()


def test_parameter_names_stand_in_the_order_of_the_saved_optimizer(tmp_path: Path) -> None:
    record(tmp_path)
    groups = json.loads((tmp_path / "headwater" / "rates.json").read_text())["groups"]
    saved = torch.load(tmp_path / "checkpoint-6" / "optimizer.pt", weights_only=True)
    weights = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    for named, numbered in zip(groups, saved["param_groups"], strict=True):
        for name, number in zip(named["parameters"], numbered["params"], strict=True):
            assert saved["state"][number]["exp_avg_sq"].shape == weights[name].shape, name


class Overflow(TrainerCallback):
    """Makes one step look as mixed precision does when gradients overflow."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        given["optimizer"]._is_overflow = state.global_step == 1


def test_a_step_that_mixed_precision_skips_adds_nothing(tmp_path: Path) -> None:
    callbacks = [recorder(tmp_path), Overflow()]
    builders.train_plainly(tmp_path, ROWS, callbacks=callbacks, lr_scheduler_type="constant")
    assert [c.weight for c in Run.open(tmp_path).checkpoints] == pytest.approx([2e-3, 3e-3])
    paths = [tmp_path / "checkpoint-3", tmp_path / "checkpoint-6"]
    assert rebuilt_weights(paths).weights == pytest.approx([2e-3, 3e-3])


MISFITS: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "label smoothing": ({}, {"label_smoothing_factor": 0.1}, RunError, "smooths labels by 0.1"),
    "shorter": ({"task": Classification(max_length=7)}, {}, DataError, "row has 1. tokens, the task makes 7"),
    "another order": ({"rows": [*ROWS[1:], ROWS[0]]}, {}, DataError, "row 1: Trainer's row has"),
    "too long": ({"task": Classification(max_length=65)}, {}, ModelError, "at most 64 tokens"),
    "other rows": ({"rows": ROWS[:20]}, {}, DataError, "given 20 rows, but Trainer trains on 24"),
    "unknown label": (
        {"rows": [row | {"label": "x" + row["label"]} for row in ROWS]},
        {},
        DataError,
        "row 1: label 'x",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_told_before_the_first_step_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    given, arguments, kind, message = MISFITS[case]
    with pytest.raises(kind, match=message):
        builders.train_plainly(tmp_path, ROWS, callbacks=[recorder(tmp_path, **given)], **arguments)
    assert list(tmp_path.rglob("*.*")) == []


def test_label_smoothing_that_the_task_knows_is_fine(tmp_path: Path) -> None:
    task = Classification(label_smoothing=0.1)
    builders.train_plainly(tmp_path, ROWS, callbacks=[recorder(tmp_path, task=task)], label_smoothing_factor=0.1)
    assert Run.open(tmp_path).task == Classification(label_smoothing=0.1, max_length=32)


def test_held_out_rows_must_fit_too(tmp_path: Path) -> None:
    held = Corpus.read([{"text": "a", "label": "other"}], name="eval.csv")
    recording = Recorder(tmp_path, corpus=Corpus.read(ROWS), task=Classification(), eval_corpus=held)
    with pytest.raises(DataError, match=r"eval\.csv, row 1: label 'other' is not"):
        builders.train_plainly(tmp_path, ROWS, callbacks=[recording])


def test_a_lora_run_opens_with_its_labels_and_says_that_embeddings_stood_still(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="LoRA needs headwater[lora]")
    tokenizer = builders.wordpiece_tokenizer()
    AutoModel.from_config(builders.tiny_model().config).save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", label2id=builders.LABEL2ID, id2label={0: "bad", 1: "good"}
    )
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    folder = tmp_path / "run"
    trainer = builders.train_plainly(folder, ROWS, model=model, callbacks=[recorder(folder)])
    with pytest.warns(HeadwaterWarning, match="LoRA"):
        run = Run.open(folder)
    assert run.label2id == builders.LABEL2ID
    loaded, batch = (
        run.checkpoints[-1].load(),
        run.task.collate(run.task.encode(tokenizer, list(run.corpus)), tokenizer),
    )
    expected = trainer.model.eval()(**batch).logits
    torch.testing.assert_close(loaded(**batch).logits, expected)
    before = run.checkpoints[-1].fingerprint
    assert run.checkpoints[0].fingerprint != before
    weights = load_file(tmp_path / "base" / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "base" / "model.safetensors")
    assert Run.open(folder).checkpoints[-1].fingerprint != before


def test_a_model_of_several_labels_a_row_is_refused(tmp_path: Path) -> None:
    model = builders.tiny_model(problem_type="multi_label_classification")
    with pytest.raises(ModelError, match="multi-label classification is not supported yet"):
        builders.train_plainly(tmp_path, ROWS, model=model, callbacks=[recorder(tmp_path)])


def test_a_trainer_without_tokenizer_is_refused(tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    data = builders.Encoded(ROWS, builders.wordpiece_tokenizer())
    trainer = Trainer(builders.tiny_model(), arguments, train_dataset=data, callbacks=[recorder(tmp_path)])
    with pytest.raises(RunError, match="processing_class=tokenizer"):
        trainer.train()


def test_rows_in_another_order_than_trainers_are_found(tmp_path: Path) -> None:
    tokenizer = builders.wordpiece_tokenizer()
    encoded = datasets.Dataset.from_list([dict(item) for item in builders.Encoded(ROWS, tokenizer).items])
    arguments = TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True)

    def train(data: datasets.Dataset) -> None:
        Trainer(
            builders.tiny_model(),
            arguments,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[recorder(tmp_path)],
        ).train()

    train(encoded)
    with pytest.raises(DataError, match="Give both the same rows in the same order"):
        train(encoded.select(range(len(ROWS))[::-1]))


def test_pairs_are_recorded_as_pairs(tmp_path: Path) -> None:
    rows = builders.rows(16, pairs=True)
    corpus = Corpus.read(rows, Columns(text_pair="pair"))
    recording = Recorder(tmp_path, corpus=corpus, task=Classification(pairs=True))
    builders.train_plainly(tmp_path, rows, callbacks=[recording])
    run = Run.open(tmp_path)
    assert run.task.kind == "pairs" and run.corpus[3].text_pair == rows[3]["pair"]
