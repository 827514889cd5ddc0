"""`headwater layers`: what modules there are, what a pattern selects, and how much they cancel."""

from pathlib import Path

import pytest

import builders
import headwater as hw
from cli.conftest import headwater, write_rows
from headwater.gradients.layers import layer_table


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a BERT of four blocks."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = builders.wordpiece_tokenizer()
    builders.tiny_model("bert", tokenizer, num_hidden_layers=4).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    data = write_rows(folder / "train.jsonl", builders.rows(24))
    train = ("train", "--data", data, "--model", folder / "model", "--epochs", 1, "--max-length", 16)
    called = headwater(*train, "--out", folder / "run")
    assert called.code == 0, called.stderr
    return folder / "run"


def test_every_module_is_listed(bert: Path) -> None:
    told = headwater("layers", bert, "--json").json
    run = hw.Run.open(bert)
    model = run.checkpoints[-1].load()
    assert [module["name"] for module in told["modules"]] == [row.name for row in layer_table(model)]
    assert sum(module["entries"] for module in told["modules"]) == sum(p.numel() for p in model.parameters())
    quarters = {module["name"]: module["quarter"] for module in told["modules"]}
    assert quarters["bert.encoder.layer.2.output.dense"] == 3 and quarters["classifier"] is None
    assert told["blocks"] == 4 and told["selected"] is told["cancellation"] is None
    shown = headwater("layers", bert).stdout
    assert all(module["name"] in shown for module in told["modules"])
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters, 4 blocks" in shown


def test_what_a_pattern_selects_and_what_it_takes(bert: Path, tmp_path: Path) -> None:
    chosen = ("--layers", "quarter:4,!*LayerNorm", "--dim", 4)
    told = headwater("layers", bert, *chosen, "--json").json
    selected = told["selected"]
    names = [module["name"] for module in told["modules"] if module["numbers"]]
    assert names == selected["layers"] and len(names) == 6 and all("layer.3." in name for name in names)
    assert selected["numbers"] == 6 * 16 and selected["parameters"] == 4 * 272 + 544 + 528
    built = headwater("index", bert, "--method", "tracin", *chosen, "--out", tmp_path / "i", "--json").json["built"][0]
    assert (built["numbers"], built["row_bytes"]) == (selected["numbers"], selected["row_bytes"])
    assert "stored as 96 numbers" in headwater("layers", bert, *chosen).stdout


def test_cancellation_is_that_of_python(bert: Path) -> None:
    groups = ["word-embeddings", "quarter:2,quarter:3", "last"]
    asked = ("layers", bert, "--cancellation", "--checkpoints", "last", "--sample", 9, "--seed", 3)
    told = headwater(*asked, "--groups", "; ".join(groups), "--json").json["cancellation"]
    assert told == [
        each.to_dict() for each in hw.cancellation(hw.Run.open(bert), groups, checkpoints="last", sample=9, seed=3)
    ]
    shown = headwater(*asked, "--against", "training").stdout
    for name in ("word-embeddings", "quarter:1", "quarter:4", "last", "all", "gradient"):
        assert name in shown
    assert "Over 9 gradients" in shown


def test_a_group_that_is_not_there(made: Path) -> None:
    called = headwater("layers", made / "run", "--cancellation")
    assert called.code == 0 and "Note: this model has no quarter:1" in called.stderr
    assert "last" in called.stdout and "quarter" not in called.stdout
    called = headwater("layers", made / "run", "--cancellation", "--groups", "last;quarter:1")
    assert called.code == 1 and "too few for quarters" in called.error


def test_what_contradicts_itself(made: Path) -> None:
    for options, said in (
        (("--groups", "last"), "--groups goes with --cancellation"),
        (("--sample", 3), "--sample goes with --cancellation"),
        (("--layers", "atention"), "no layer is named 'atention'"),
        (("--checkpoint", "checkpoint-9"), "no checkpoint 'checkpoint-9'"),
        (("--cancellation", "--sample", 0), "sample must be at least 1"),
    ):
        called = headwater("layers", made / "run", *options)
        assert called.code == 2 and said in called.error


def test_masked_language_models_by_the_command_line(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM

    tokenizer = builders.wordpiece_tokenizer()
    sizes = builders._SIZES["bert"] | {"max_position_embeddings": 64, "pad_token_id": 0}
    config = AutoConfig.for_model("bert", vocab_size=len(tokenizer), **sizes)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data, run = write_rows(tmp_path / "train.jsonl", builders.rows(12)), tmp_path / "run"
    train = ("train", "--task", "masked-lm", "--data", data, "--model", tmp_path / "model", "--epochs", 1)
    assert "leave --label-column out" in headwater(*train, "--label-column", "label", "--out", run).error
    assert headwater(*train, "--max-length", 16, "--mask-share", 0.3, "--out", run).code == 0
    task = hw.Run.open(run).task
    assert isinstance(task, hw.MaskedLM) and task.probability == 0.3
    assert headwater("index", run, "--method", "tracin", "--layers", "last").code == 0
    (query,) = headwater("query", run, "--text", "the baker loves bread", "--method", "tracin", "--json").json[
        "queries"
    ]
    assert query["proponents"] + query["opponents"]
    told = headwater("layers", run, "--json").json["modules"]
    (head,) = [module for module in told if module["name"] == "cls.predictions.decoder"]
    assert head["shares"] == "bert.embeddings.word_embeddings"
    out = tmp_path / "s.npy"
    assert "behind the masks" in headwater("scores", run, "--queries", data, "--method", "bm25", "--out", out).stdout
