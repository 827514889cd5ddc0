"""Tiny language models made from configs, texts to train them on, and an oracle that differentiates one text at a time.

The oracle shares no code with what it checks: it joins, tokenizes, masks and shifts by itself. Its gradient is that of
the *input side* of the embedding matrix: where the head is tied, it runs a copy of the model whose head is its own.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import builders
import headwater as hw

PROMPTS = [
    "the heron loves",
    "an old miller hates",
    "my neighbour praises",
    "the baker avoids",
    "a quiet child admires",
]
ENDS = [" warm bread .", " unbelievable stories and the noisy mill .", " long winters .", " the spring rain"]
PAIRS = [(prompt, end) for prompt, end in itertools.product(PROMPTS, ENDS)]
"""20 prompts and completions of different lengths; completions begin with a space, as GPT's do."""

QUERIES = [
    ("the river loves", " warm bread ."),
    ("an old child", " hates the noisy mill ."),
    ("the miller", " avoids rain"),
]

TEMPLATE = (
    "{% for m in messages %}[CLS] {{ m['role'] }} : {{ m['content'] }} [SEP]\n{% endfor %}"
    "{% if add_generation_prompt %}[CLS] assistant :{% endif %}"
)


def lm_tokenizer(*, side: str = "right", end: bool = True) -> PreTrainedTokenizerFast:
    """The tests' word pieces without special tokens around a text; [SEP] ends texts, and there is a chat template."""
    made = builders.plain_tokenizer(max_length=128)
    made.padding_side = side
    made.add_special_tokens({"cls_token": "[CLS]", **({"eos_token": "[SEP]"} if end else {})})
    made.chat_template = TEMPLATE
    return made


def bert_tokenizer() -> PreTrainedTokenizerFast:
    return builders.wordpiece_tokenizer(max_length=64)


SEQ2SEQ: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0,
           "decoder_start_token_id": 0, "eos_token_id": 3},
    "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "scale_embedding": True,
             "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3, "dropout": 0.0, "init_std": 0.2,
             "forced_eos_token_id": None},
}  # fmt: skip


def tiny_lm(kind: str, *, tied: bool = True, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """gpt2, llama, gemma (causal), t5, bart (seq2seq), bert (masked): 1-2 layers, 16 wide, no dropout."""
    size = len(builders._vocabulary())
    options: dict[str, Any] = {"vocab_size": size, "pad_token_id": 0, "tie_word_embeddings": tied}
    options |= {"initializer_range": 0.2, "max_position_embeddings": 128}
    auto: Any = AutoModelForCausalLM
    if kind in SEQ2SEQ:
        auto = AutoModelForSeq2SeqLM
        options |= SEQ2SEQ[kind]
    else:
        options |= builders._SIZES[kind]
    if kind == "bert":
        auto = AutoModelForMaskedLM
    options |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0} if kind == "gpt2" else {}
    config = AutoConfig.for_model(kind, **(options | changes))
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    torch.manual_seed(seed)
    model: PreTrainedModel = auto.from_config(config)
    if kind == "t5":  # its own initialisation has no one scale
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def run_of(
    folder: Path,
    models: Sequence[PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    rows: list[dict[str, Any]],
    task: Any,
    columns: hw.Columns,
    *,
    weights: Sequence[float] = (1e-2, 5e-3),
) -> hw.Run:
    """Save models as checkpoints and make a run of them."""
    checkpoints = []
    for number, (model, weight) in enumerate(zip(models, weights, strict=False)):
        path = folder / f"checkpoint-{number + 1}"
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        checkpoints.append((path, weight))
    corpus = hw.Corpus.read(rows, columns, name="rows")
    return hw.Run.create(folder, checkpoints=checkpoints, corpus=corpus, task=task)


PAIR_COLUMNS = hw.Columns(text="prompt", label="completion")


def pair_rows(pairs: Sequence[tuple[str, str]] = PAIRS) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]


def untied(model: PreTrainedModel) -> PreTrainedModel:
    """A copy in double precision whose head is a weight of its own: the embedding matrix keeps its input side alone."""
    made = copy.deepcopy(model).double().eval().requires_grad_(False)
    head: Any = made.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    matrix: Any = made.get_input_embeddings().weight
    assert head.weight is not matrix
    matrix.requires_grad_(True)
    return made


def _of_matrix(model: PreTrainedModel, loss: Tensor) -> Tensor:
    matrix: Any = model.get_input_embeddings().weight
    return torch.autograd.grad(loss, matrix)[0]


def causal_gradient(
    model: PreTrainedModel, ids: Sequence[int], first: int, *, mean: bool = False
) -> tuple[Tensor, float]:
    """d loss / d E (input side) of one text [v, d] and the loss; tokens from place `first` on are targets."""
    logits = model(input_ids=torch.tensor([list(ids)])).logits[0]
    steps = [-log_softmax(logits[t - 1], dim=-1)[ids[t]] for t in range(max(first, 1), len(ids))]
    loss = torch.stack(steps).mean() if mean else torch.stack(steps).sum()
    return _of_matrix(model, loss), float(loss.detach())


def seq2seq_gradient(
    model: PreTrainedModel, source: Sequence[int], target: Sequence[int], *, mean: bool = False
) -> tuple[Tensor, float]:
    """The same of a source and a target; the model moves the target right by itself."""
    labels = torch.tensor([list(target)])
    logits = model(input_ids=torch.tensor([list(source)]), labels=labels).logits[0]
    steps = [-log_softmax(logits[t], dim=-1)[token] for t, token in enumerate(target)]
    loss = torch.stack(steps).mean() if mean else torch.stack(steps).sum()
    return _of_matrix(model, loss), float(loss.detach())


def products(asked: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    return torch.stack([a.flatten() for a in asked]) @ torch.stack([r.flatten() for r in rows]).T
