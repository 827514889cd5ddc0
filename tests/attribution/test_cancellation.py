"""Cancellation of groups of layers, against sums of dense gradients that autograd gives row by row."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import WEIGHTS
from headwater.attribution.cancellation import GroupCancellation
from headwater.errors import HeadwaterWarning, RunError, UsageError

GROUPS = ["word-embeddings", "last", "bert.encoder.layer.1,!*LayerNorm", "all"]


def steps_of(run: hw.Run, rows: list[int]) -> dict[str, Tensor]:
    """weight x gradient of each row at each checkpoint, by parameter: [checkpoints x rows, entries] in float64."""
    steps: dict[str, list[Tensor]] = {}
    for checkpoint in run.checkpoints:
        model = checkpoint.load().double()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        for row in rows:
            encoded = run.task.encode(run.tokenizer, [run.corpus[row]])
            model.zero_grad()
            inputs = run.task.collate(encoded, run.tokenizer)
            run.task.losses(model, inputs, torch.tensor([run.targets[row]])).sum().backward()
            for name, parameter in model.named_parameters():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                steps.setdefault(name, []).append(checkpoint.weight * gradient.flatten())
    return {name: torch.stack(given) for name, given in steps.items()}


def parameters_of(group: str, names: list[str]) -> list[str]:
    """What the groups of these tests hold, spelled out."""
    if group == "all":
        return names
    if group == "word-embeddings":
        return [name for name in names if name.endswith(("word_embeddings.weight", "wte.weight"))]
    if group == "last":
        return [name for name in names if name.startswith("classifier.")]
    return [name for name in names if "encoder.layer.1." in name and "LayerNorm" not in name]


def check(found: GroupCancellation, steps: Tensor, moved: Tensor) -> None:
    sizes, sums = steps.abs().sum(dim=0), steps.sum(dim=0)
    touched = sizes > 1e-12 * sizes.max()
    assert found.ratios.norm == pytest.approx(float(steps.norm(dim=1).sum() / moved.norm()), rel=1e-4)
    assert found.ratios.gradient == pytest.approx(float(sizes.sum() / sums.abs().sum()), rel=1e-4)
    assert found.ratios.element == pytest.approx(float((sizes / moved.abs())[touched].median()), rel=0.05)
    assert found.ratios.examples == len(steps) and found.parameters == steps.shape[1]


def test_ratios_are_those_of_dense_sums(run: hw.Run) -> None:
    steps = steps_of(run, list(range(len(run.corpus))))
    found = hw.cancellation(run, GROUPS)
    assert [each.group for each in found] == GROUPS
    for each in found:
        dense = torch.cat([steps[name] for name in parameters_of(each.group, list(steps))], dim=1)
        check(each, dense, dense.sum(dim=0))
        assert each.ratios.norm > 1 and each.ratios.gradient > 1 and each.left_out == ""
    (alone,) = hw.cancellation(run, ["last"])
    assert alone == found[1]


def test_a_sample_is_of_rows_and_of_its_seed(run: hw.Run) -> None:
    (one,), (again,), (other,) = (hw.cancellation(run, ["last"], sample=7, seed=seed) for seed in (3, 3, 4))
    assert one == again and one != other and one.ratios.examples == 7 * len(WEIGHTS)
    (every,), (more,) = hw.cancellation(run, ["last"]), hw.cancellation(run, ["last"], sample=1000)
    assert every == more
    (last,) = hw.cancellation(run, ["last"], checkpoints="last")
    assert last.ratios.examples == len(run.corpus) and last.ratios.norm != every.ratios.norm


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> hw.Run:
    folder, rows = tmp_path_factory.mktemp("trained") / "run", builders.rows(16)
    recorder = hw.Recorder(folder, corpus=hw.Corpus.read(rows), task=hw.Classification(max_length=32))
    builders.train_plainly(folder, rows, callbacks=[recorder])
    return hw.Run.open(folder)


def test_against_what_training_did(trained: hw.Run) -> None:
    before = load_file(trained.folder / "headwater" / "initial" / "model.safetensors")
    after = load_file(trained.checkpoints[-1].path / "model.safetensors")
    steps = steps_of(trained, list(range(16)))
    for each in hw.cancellation(trained, GROUPS, against="training"):
        names = parameters_of(each.group, list(steps))
        moved = torch.cat([(after[name].double() - before[name].double()).flatten() for name in names])
        check(each, torch.cat([steps[name] for name in names], dim=1), moved)


def test_the_usual_groups_are_those_that_the_model_has(run: hw.Run, trained: hw.Run) -> None:
    with pytest.warns(HeadwaterWarning, match="has no quarter:1, quarter:2, quarter:3, quarter:4: left out"):
        found = hw.cancellation(run)
    assert [each.group for each in found] == ["word-embeddings", "last", "all"]
    with pytest.raises(hw.HeadwaterError, match="too few for quarters"):
        hw.cancellation(run, ["last", "quarter:1"])
    with pytest.raises(UsageError, match=r"no layer is named 'bert\.pooled'"):
        hw.cancellation(run, ["bert.pooled"])


def test_tied_weights_are_one_parameter(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    plain = builders.plain_tokenizer()
    sizes = builders._SIZES["gpt2"] | {"max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", vocab_size=len(plain), **sizes))
    model.save_pretrained(tmp_path / "model")
    plain.save_pretrained(tmp_path / "model")
    corpus = hw.Corpus.read([{"text": row["text"]} for row in builders.rows(6)], hw.Columns(label=None))
    run = hw.Run.create(
        tmp_path, checkpoints=[(tmp_path / "model", 1.0)], corpus=corpus, task=hw.CausalLM(end=False, max_length=32)
    )
    steps = steps_of(run, list(range(6)))
    for each in hw.cancellation(run, ["word-embeddings", "all"]):
        dense = torch.cat([steps[name] for name in parameters_of(each.group, list(steps))], dim=1)
        check(each, dense, dense.sum(dim=0))
    (sides,) = hw.cancellation(run, ["all"], tied="separate")
    assert sides.parameters == dense.shape[1] + steps["transformer.wte.weight"].shape[1]


def test_what_cannot_be_measured(run: hw.Run) -> None:
    with pytest.raises(RunError, match="the weights before training were not kept"):
        hw.cancellation(run, ["last"], against="training")
    with pytest.raises(UsageError, match="against must be one of steps, training"):
        hw.cancellation(run, ["last"], against="weights")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="sample must be at least 1"):
        hw.cancellation(run, ["last"], sample=0)
