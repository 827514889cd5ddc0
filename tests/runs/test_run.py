"""Opening and making runs: what fits opens, what does not is one line that says what to do."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import builders
from headwater.errors import DataError, HeadwaterError, HeadwaterWarning, ModelError, RunError, UsageError
from headwater.models.textcnn import TextCNN, TextCNNConfig
from headwater.runs.classification import Classification
from headwater.runs.corpus import Columns, Corpus
from headwater.runs.recipe import Recipe
from headwater.runs.recorder import Recorder
from headwater.runs.run import Run

ROWS = builders.rows(24)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Trainer's folder without any record; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    builders.train_plainly(folder, ROWS)
    return folder


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "run"))


def corpus() -> Corpus:
    return Corpus.read(ROWS)


def opened(folder: Path) -> Run:
    return Run.open(folder, corpus=corpus(), task=Classification())


def made(folder: Path, plain: Path, **options: Any) -> Run:
    given: dict[str, Any] = {
        "checkpoints": [(plain / "checkpoint-3", 2.0), (plain / "checkpoint-6", 1.0)],
        "corpus": corpus(),
        "task": Classification(),
    }
    return Run.create(folder, **(given | options))


def test_a_plain_trainer_folder_opens_with_corpus_and_task_and_is_left_alone(plain: Path) -> None:
    before = sorted(plain.rglob("*"))
    run = opened(plain)
    assert [c.step for c in run.checkpoints] == [3, 6]
    assert run.checkpoints[0].weight == pytest.approx(1e-3 * (6 + 5 + 4) / 6)
    assert run.checkpoints[1].weight == pytest.approx(1e-3 * (3 + 2 + 1) / 6)
    assert [c.learning_rate for c in run.checkpoints] == pytest.approx([5e-4, 0.0])
    assert run.targets == [builders.LABEL2ID[row["label"]] for row in ROWS]
    assert run.task.max_length == 32 and run.warnings == []
    assert sorted(plain.rglob("*")) == before


def test_a_corpus_may_be_given_as_a_file(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert Run.open(plain, corpus=path, task=Classification()).corpus.name == "train.jsonl"


def test_checkpoints_stand_in_the_order_of_their_steps_not_of_their_names(tmp_path: Path) -> None:
    builders.train_plainly(tmp_path, ROWS, max_steps=11, save_strategy="steps", save_steps=3)
    assert [c.step for c in opened(tmp_path).checkpoints] == [3, 6, 9, 11]


def test_a_run_of_anybodys_checkpoints_has_the_weights_given(plain: Path, tmp_path: Path) -> None:
    run = made(tmp_path / "mine", plain)
    again = Run.open(tmp_path / "mine")
    for one in (run, again):
        assert [(c.name, c.step, c.weight) for c in one.checkpoints] == [
            ("checkpoint-3", 3, 2.0),
            ("checkpoint-6", 6, 1.0),
        ]
        assert one.task == Classification(max_length=32)
        assert one.corpus.fingerprint == corpus().fingerprint
    assert [c.fingerprint for c in run.checkpoints] == [c.fingerprint for c in again.checkpoints]
    assert len({c.fingerprint for c in run.checkpoints}) == 2
    with pytest.raises(RunError, match=r"cannot be trained again: it was made by Run\.create"):
        again.need_recipe()
    with pytest.raises(RunError, match="there is a run already"):
        made(tmp_path / "mine", plain)


def test_folders_of_the_same_name_are_told_apart(plain: Path, tmp_path: Path) -> None:
    for seed in ("a", "b"):
        shutil.copytree(plain / "checkpoint-6", tmp_path / seed / "final")
    with pytest.warns(HeadwaterWarning, match="did not move"):  # they are copies of one another
        run = made(tmp_path / "mine", plain, checkpoints=[(tmp_path / s / "final", 1.0) for s in "ab"])
    assert [c.name for c in run.checkpoints] == ["final", "final-2"]


def test_checkpoints_are_chosen_by_name_or_step(plain: Path) -> None:
    run = opened(plain)
    first, last = run.checkpoints
    assert run.select() == (first, last) and run.select("last") == (last,)
    assert run.select("checkpoint-3") == run.select([3]) == run.select("3") == (first,)
    assert run.select([6, "checkpoint-3"]) == (first, last)
    for wrong in (["checkpoint-4"], "first", [4], []):
        with pytest.raises(UsageError):
            run.select(wrong)


def test_a_recipe_may_be_given_where_none_was_recorded(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"trained without hw\.Recorder"):
        opened(plain).need_recipe()
    recipe = Recipe({"learning_rate": 1e-3}, plain / "checkpoint-3", 32, 0)
    assert Run.open(plain, corpus=corpus(), task=Classification(), recipe=recipe).need_recipe() is recipe


def damage_format(folder: Path) -> None:
    path = folder / "headwater" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


def damage_json(folder: Path) -> None:
    path = folder / "headwater" / "run.json"
    path.write_text(path.read_text()[:-40])


def damage_entry(folder: Path) -> None:
    path = folder / "headwater" / "run.json"
    path.write_text(json.dumps({"format": 1}))


def damage_corpus(folder: Path) -> None:
    corpus().take(range(10)).save(folder / "headwater" / "corpus.parquet")


def damage_rates(folder: Path) -> None:
    (folder / "headwater" / "rates.json").write_text('{"format": 1}')


def newer_rates(folder: Path) -> None:
    (folder / "headwater" / "rates.json").write_text('{"format": 2}')


def lose_initial(folder: Path) -> None:
    shutil.rmtree(folder / "headwater" / "initial")


def lose_checkpoints(folder: Path) -> None:
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)


def lose_weights(folder: Path) -> None:
    (folder / "checkpoint-6" / "model.safetensors").unlink()


def lose_config(folder: Path) -> None:
    (folder / "checkpoint-6" / "config.json").unlink()


def zero_rates(folder: Path) -> None:
    path = folder / "headwater" / "rates.json"
    saved = json.loads(path.read_text())
    saved["rates"] = [[0.0] * len(rates) for rates in saved["rates"]]
    path.write_text(json.dumps(saved))


DAMAGE = {
    damage_format: "format 99, newer than this Headwater knows",
    damage_json: "run.json: not valid JSON",
    damage_entry: "run.json: damaged",
    damage_corpus: "not the corpus that the run was recorded with",
    damage_rates: "rates.json: damaged",
    newer_rates: "rates.json: format 2, newer",
    lose_initial: "first weights are gone",
    lose_checkpoints: "checkpoint-3: this checkpoint of the run is gone",
    lose_weights: "checkpoint-6: no weights",
    lose_config: "checkpoint-6: cannot load the configuration",
    zero_rates: "the weights of all checkpoints are zero",
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "run"
    recorder = Recorder(folder, corpus=corpus(), task=Classification())
    builders.train_plainly(folder, ROWS, callbacks=[recorder])
    return folder


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_run_is_one_line_that_names_the_file(damage: Any, recorded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(recorded, tmp_path / "run"))
    damage(folder)
    with pytest.raises(HeadwaterError, match=DAMAGE[damage]) as caught:
        Run.open(folder)
    assert "\n" not in str(caught.value)


def test_another_corpus_or_task_than_recorded_is_refused_and_the_same_is_not(recorded: Path) -> None:
    assert Run.open(recorded, corpus=corpus(), task=Classification()).task.max_length == 32
    with pytest.raises(RunError, match="trained on another corpus"):
        Run.open(recorded, corpus=corpus().take(range(23)))
    with pytest.raises(RunError, match="Leave task= out"):
        Run.open(recorded, task=Classification(max_length=16))
    with pytest.raises(RunError, match="Leave task= out"):
        Run.open(recorded, task=Classification(label_smoothing=0.1))


def test_a_folder_that_is_no_run_says_what_to_open(plain: Path, tmp_path: Path) -> None:
    for path, given, message in (
        (tmp_path / "nowhere", {}, "no such folder"),
        (tmp_path, {}, "neither a recorded run nor checkpoints are here"),
        (plain / "checkpoint-6", {}, r"This is a single model: use Run\.create"),
        (plain, {}, "Give corpus and task"),
        (plain, {"task": Classification()}, "Give corpus: "),
        (plain, {"corpus": corpus()}, "Give task: "),
    ):
        with pytest.raises(RunError, match=message):
            Run.open(path, **given)


def test_a_corpus_that_does_not_fit_the_model_is_refused(plain: Path) -> None:
    wrong = [row | {"label": {"good": "pos", "bad": "neg"}[row["label"]]} for row in ROWS]
    with pytest.raises(DataError, match=r"my\.csv, row 1: label '(pos|neg)' is not .* \(bad, good\)"):
        Run.open(plain, corpus=Corpus.read(wrong, name="my.csv"), task=Classification())
    with pytest.raises(DataError, match="needs labels"):
        Run.open(plain, corpus=Corpus.read(ROWS, Columns(label=None)), task=Classification())
    with pytest.raises(DataError, match="the task is pairs, but its columns name no second text"):
        Run.open(plain, corpus=corpus(), task=Classification(pairs=True))
    pairs = Corpus.read(builders.rows(24, pairs=True), Columns(text_pair="pair"))
    with pytest.raises(DataError, match="the task is classification, but its columns name a second text"):
        Run.open(plain, corpus=pairs, task=Classification())


@pytest.mark.parametrize(
    ("weights", "message"),
    [([0.0, 0.0], "all checkpoints are zero"), ([1.0, -1.0], "weight -1.0"), ([1.0, float("nan")], "weight nan")],
)
def test_weights_that_mean_nothing_are_refused_and_nothing_is_written(
    weights: list[float], message: str, plain: Path, tmp_path: Path
) -> None:
    paths = [plain / "checkpoint-3", plain / "checkpoint-6"]
    with pytest.raises(RunError, match=message):
        made(tmp_path / "mine", plain, checkpoints=list(zip(paths, weights, strict=True)))
    with pytest.raises(RunError, match="no such folder"):
        made(tmp_path / "mine", plain, checkpoints=[(tmp_path / "gone", 1.0)])
    with pytest.raises(RunError, match="the run has no checkpoints"):
        made(tmp_path / "mine", plain, checkpoints=[])
    assert not (tmp_path / "mine").exists()


def test_a_checkpoint_without_tokenizer_says_where_to_put_one(folder: Path) -> None:
    for path in (folder / "checkpoint-6").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(RunError, match=r"there is no tokenizer.*tokenizer\.save_pretrained\('.*checkpoint-6'\)"):
        opened(folder)
    builders.wordpiece_tokenizer().save_pretrained(folder)
    assert opened(folder).tokenizer.pad_token == "[PAD]"


def edit_config(folder: Path, **changes: Any) -> None:
    for path in folder.glob("checkpoint-*/config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_models_that_would_be_read_wrongly_are_refused_when_opened(folder: Path) -> None:
    edit_config(folder, problem_type="multi_label_classification")
    with pytest.raises(ModelError, match="multi-label classification is not supported yet"):
        opened(folder)
    edit_config(folder, problem_type=None, pad_token_id=5)
    with pytest.raises(ModelError, match="the model's pad_token_id is 5, the tokenizer's 0"):
        opened(folder)
    edit_config(folder, pad_token_id=None)
    with pytest.raises(ModelError, match="no padding id"):
        opened(folder)


def frozen_run(folder: Path, *, record: bool, epochs: int = 2) -> Run:
    model = builders.tiny_model()
    model.get_input_embeddings().weight.requires_grad_(False)
    callbacks: Any = [Recorder(folder, corpus=corpus(), task=Classification())] if record else []
    builders.train_plainly(folder, ROWS, model=model, callbacks=callbacks, num_train_epochs=epochs)
    return Run.open(folder) if record else opened(folder)


@pytest.mark.parametrize(("record", "epochs"), [(False, 2), (True, 2), (True, 1)])
def test_word_embeddings_that_did_not_move_are_told(record: bool, epochs: int, tmp_path: Path) -> None:
    with pytest.warns(HeadwaterWarning, match="word embeddings did not move"):
        run = frozen_run(tmp_path, record=record, epochs=epochs)
    assert len(run.warnings) == 1 and "did not move" in run.warnings[0]
    assert all(c.weight > 0 for c in run.checkpoints)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "albert", "deberta-v2"])
def test_word_embeddings_that_moved_are_not_told(kind: str, tmp_path: Path) -> None:
    tokenizer = builders.plain_tokenizer() if kind == "gpt2" else builders.wordpiece_tokenizer()
    builders.train_plainly(tmp_path, ROWS, model=builders.tiny_model(kind, tokenizer), tokenizer=tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HeadwaterWarning)
        assert opened(tmp_path).warnings == []


def test_a_textcnn_is_a_run_like_any_other(tmp_path: Path) -> None:
    tokenizer = builders.wordpiece_tokenizer()
    config = TextCNNConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        channels=6,
        max_length=20,
        label2id=builders.LABEL2ID,
        id2label={0: "bad", 1: "good"},
    )
    torch.manual_seed(0)
    recorder = Recorder(tmp_path, corpus=corpus(), task=Classification())
    builders.train_plainly(tmp_path, ROWS, model=TextCNN(config), callbacks=[recorder])
    run = Run.open(tmp_path)
    assert run.task.max_length == 20 and run.warnings == []
    assert isinstance(run.checkpoints[0].load(), TextCNN)


def test_doubtful_weights_are_told_by_the_run(tmp_path: Path) -> None:
    builders.train_plainly(tmp_path, ROWS, lr_scheduler_type="constant")
    (tmp_path / "checkpoint-6" / "training_args.bin").unlink()
    with pytest.warns(HeadwaterWarning, match="several schedules fit"):
        assert "several schedules fit" in opened(tmp_path).warnings[0]


def test_a_run_in_a_notebook_shows_its_checkpoints_and_escapes_names(plain: Path) -> None:
    run = Run.open(plain, corpus=Corpus.read(ROWS, name="<b>"), task=Classification())
    shown = run._repr_html_()
    assert "checkpoint-6" in shown and "<b>" not in shown
