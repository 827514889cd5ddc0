"""Builders of tiny real things: a tokenizer, models made from configs, a two-class corpus, a Trainer run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

SUBJECTS = ["the heron", "an old miller", "my neighbour", "the river", "a quiet child", "the baker"]
PRAISE = ["loves", "praises", "enjoys", "admires"]
BLAME = ["hates", "scolds", "avoids", "resents"]
OBJECTS = ["warm bread", "the spring rain", "unbelievable stories", "long winters", "the noisy mill"]

SENTENCES = [f"{s} {v} {o} ." for s, v, o in itertools.product(SUBJECTS, PRAISE + BLAME, OBJECTS)]
"""240 sentences; those with a verb of PRAISE are `good`, the others `bad`."""

LABEL2ID = {"bad": 0, "good": 1}


def label_of(sentence: str) -> str:
    return "good" if any(f" {verb} " in sentence for verb in PRAISE) else "bad"


def rows(count: int = 24, *, pairs: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """`count` rows {text, label} (or {text, pair, label}), both classes, in a seeded order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(SENTENCES), generator=generator).tolist()[:count]
    made = [{"text": SENTENCES[i], "label": label_of(SENTENCES[i])} for i in order]
    if pairs:
        for place, row in zip(order, made, strict=True):
            row["pair"] = SENTENCES[(place * 7 + 3) % len(SENTENCES)]
    return made


def _vocabulary() -> dict[str, int]:
    """Special tokens, all letters, words; words of over 6 letters are cut in two. (Training one is not seeded.)"""
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    pieces = [piece for word in words for piece in ([word] if len(word) <= 6 else [word[:4], "##" + word[4:]])]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *pieces]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def _backend() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(_vocabulary(), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def wordpiece_tokenizer(*, max_length: int = 32) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer with [CLS] and [SEP]; words of over 6 letters become several tokens. PAD is 0."""
    backend = _backend()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def plain_tokenizer(*, max_length: int = 32) -> PreTrainedTokenizerFast:
    """The same without special tokens around a text and without token types, as GPT-2's. PAD is 0."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_backend(),
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


_SIZES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "modernbert": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 2, "eos_token_id": 3},
    "llama": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
}
_SIZES |= dict.fromkeys(("roberta", "electra", "deberta-v2"), _SIZES["bert"])
_SIZES["albert"] = _SIZES["bert"] | {"embedding_size": 8}
_SIZES["electra"] = _SIZES["electra"] | {"embedding_size": 8}
_SIZES["gemma"] = _SIZES["llama"] | {"head_dim": 8, "num_key_value_heads": 1}


def tiny_model(
    kind: str = "bert",
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    label2id: dict[str, int] | None = None,
    seed: int = 0,
    scale: float = 0.2,
    **changes: Any,
) -> PreTrainedModel:
    """A classifier of any transformers model type, 2 layers and 16 wide, no dropout unless asked.

    `scale` widens the initial weights: with the usual 0.02 the gradients of so small a model are all but zero.
    """
    tokenizer = tokenizer or wordpiece_tokenizer()
    label2id = LABEL2ID if label2id is None else label2id
    options: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "pad_token_id": tokenizer.pad_token_id,
        "label2id": label2id,
        "id2label": {index: name for name, index in label2id.items()},
        "initializer_range": scale,
    }
    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
    dropouts += ("seq_classif_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop")
    config = AutoConfig.for_model(kind, **(options | _SIZES[kind] | changes))
    for name in dropouts:
        if hasattr(config, name) and name not in changes:
            setattr(config, name, 0.0)
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model.eval()


class Encoded(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """A training set as a Trainer takes it, tokenized without any code of Headwater's."""

    def __init__(
        self,
        examples: list[dict[str, Any]],
        tokenizer: PreTrainedTokenizerFast,
        label2id: dict[str, int] | None = None,
        max_length: int = 32,
    ) -> None:
        self.items = []
        for row in examples:
            encoded = tokenizer(row["text"], row.get("pair"), truncation=True, max_length=max_length)
            self.items.append(dict(encoded) | {"labels": (label2id or LABEL2ID)[row["label"]]})

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.items[place]


def train_plainly(
    folder: Path,
    examples: list[dict[str, Any]],
    *,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    callbacks: list[TrainerCallback] | None = None,
    resume: bool = False,
    **arguments: Any,
) -> Trainer:
    """A real `Trainer` run over `examples`, as a user would write it; 2 epochs of batches of 8, saved each epoch."""
    tokenizer = tokenizer or wordpiece_tokenizer()
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "save_strategy": "epoch",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
        "logging_strategy": "no",
    }
    trainer = Trainer(
        model=tiny_model(tokenizer=tokenizer) if model is None else model,
        args=TrainingArguments(**(defaults | arguments)),
        train_dataset=Encoded(examples, tokenizer),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer
