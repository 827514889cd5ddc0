"""Frozen parameters: they stay where they are in training, and in every training that repeats it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import builders
import headwater as hw
from headwater.errors import HeadwaterWarning, UsageError
from headwater.runs import Classification, Corpus, Run
from headwater.training import TrainSettings, retrain, train
from headwater.training.repeat import RepeatedTraining
from headwater.training.step import OneStep

TABLE = "bert.embeddings.word_embeddings.weight"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def frozen_run(corpus: Corpus, encoder: Path, folder: Path, *patterns: str) -> Run:
    settings = TrainSettings(
        model=str(encoder), epochs=2, learning_rate=3e-3, batch_size=8, device="cpu", freeze=patterns
    )
    with pytest.warns(HeadwaterWarning, match="did not move"):
        return train(corpus, Classification(max_length=32), folder, settings)


def test_frozen_word_embeddings_stay_and_retraining_repeats_that_bit_for_bit(
    corpus: Corpus, encoder: Path, tmp_path: Path
) -> None:
    run = frozen_run(corpus, encoder, tmp_path / "r", "word-embeddings")
    before, after = weights(run.need_recipe().initial), weights(run.checkpoints[-1].path)
    assert [name for name in before if torch.equal(before[name], after[name])] == [TABLE]
    again = retrain(run).state_dict()
    assert all(torch.equal(again[name], after[name]) for name in after)
    repeated = RepeatedTraining(run).train(range(len(corpus)))
    assert torch.equal(repeated.state_dict()["classifier.weight"], after["classifier.weight"])


def test_what_a_user_s_own_trainer_froze_stays_frozen_in_retraining(tmp_path: Path) -> None:
    rows = builders.rows(24)
    model = builders.tiny_model()
    for parameter in model.bert.encoder.layer[0].parameters():  # type: ignore[union-attr,index,operator]
        parameter.requires_grad_(False)
    recorder = hw.Recorder(tmp_path / "r", corpus=Corpus.read(rows), task=Classification(max_length=32))
    builders.train_plainly(tmp_path / "r", rows, model=model, callbacks=[recorder])
    run = Run.open(tmp_path / "r")
    before, after = weights(run.need_recipe().initial), weights(run.checkpoints[-1].path)
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if "layer.0." in name} <= still
    again = retrain(run).state_dict()
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_a_textcnn_with_a_frozen_table_is_repeated_in_either_arithmetic(corpus: Corpus, tmp_path: Path) -> None:
    settings = TrainSettings(
        model="textcnn", epochs=3, batch_size=8, max_length=24, device="cpu", freeze=("word-embeddings",)
    )
    with pytest.warns(HeadwaterWarning, match="did not move"):
        run = train(corpus, Classification(), tmp_path / "r", settings)
    after = weights(run.checkpoints[-1].path)
    for arithmetic, tolerance in (("exact", 0.0), ("quick", 1e-4)):
        made = RepeatedTraining(run, arithmetic=arithmetic).train(range(len(corpus))).state_dict()  # type: ignore[arg-type]
        assert torch.allclose(made["classifier.weight"], after["classifier.weight"], rtol=0, atol=tolerance)


def test_one_more_step_leaves_frozen_parameters_alone(corpus: Corpus, encoder: Path, tmp_path: Path) -> None:
    run = frozen_run(corpus, encoder, tmp_path / "r", "word-embeddings")
    after = weights(run.checkpoints[-1].path)
    with OneStep(run).on(corpus[0]) as model:
        stepped = model.state_dict()
        assert torch.equal(stepped[TABLE], after[TABLE])
        assert not torch.equal(stepped["classifier.weight"], after["classifier.weight"])


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (("word-embedding",), "no parameter is called so"),
        (("clasifier.weight",), "Did you mean 'classifier.weight'"),
        (("*",), "nothing is left to train"),
    ],
)
def test_a_pattern_that_makes_no_sense_is_refused_before_anything_is_written(
    patterns: tuple[str, ...], said: str, corpus: Corpus, encoder: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(model=str(encoder), freeze=patterns)
    with pytest.raises(UsageError, match=said):
        train(corpus, Classification(max_length=32), tmp_path / "r", settings)
    assert not (tmp_path / "r").exists()


def test_an_adapter_and_freezing_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="lora"):
        TrainSettings(lora=True, freeze=("word-embeddings",))
