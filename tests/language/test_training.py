"""Language models trained by `train` and by a user's own Trainer: recorded, explained, retrained to the bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, Trainer, TrainingArguments

import headwater as hw
from headwater.errors import DataError, HeadwaterError, HeadwaterWarning, ModelError, RunError, UsageError
from headwater.training import TrainSettings, evaluate, predict, retrain, train
from language.texts import (
    PAIR_COLUMNS,
    PAIRS,
    QUERIES,
    bert_tokenizer,
    lm_tokenizer,
    pair_rows,
    tiny_lm,
)

CORPUS = hw.Corpus.read(pair_rows(), PAIR_COLUMNS)


def _base(folder: Path, kind: str, **changes: Any) -> str:
    tiny_lm(kind, **changes).save_pretrained(folder / kind)
    (lm_tokenizer() if kind in ("gpt2", "llama") else bert_tokenizer()).save_pretrained(folder / kind)
    return str(folder / kind)


def _settings(model: str, **changes: Any) -> TrainSettings:
    defaults: dict[str, Any] = {"epochs": 6, "learning_rate": 1e-2, "batch_size": 4, "max_length": 32}
    return TrainSettings(model=model, **(defaults | changes))


def _equal(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("llama", hw.CausalLM()),
        ("gpt2", hw.CausalLM(reduction="mean", chat=True)),
        ("t5", hw.Seq2Seq()),
        ("bart", hw.Seq2Seq(reduction="mean")),
    ],
)
def test_a_training_is_recorded_learns_and_is_repeated_to_the_bit(kind: str, task: Any, tmp_path: Path) -> None:
    base = _base(tmp_path, kind)
    run = train(CORPUS, task, tmp_path / "run", _settings(base), eval_corpus=CORPUS)
    assert run.task.kind == task.kind and run.task.max_length == 32 and run.label2id == {}
    assert run.task == hw.Run.open(tmp_path / "run", task=task).task  # what was left open is the record's
    model = run.checkpoints[-1].load()
    assert _equal(retrain(run), model)
    before = evaluate(
        hw.Checkpoint("base", Path(base), 0, 1.0, None, task.auto).load(), run.tokenizer, run.task, CORPUS
    )
    after = evaluate(model, run.tokenizer, run.task, CORPUS)
    assert after.loss < 0.95 * before.loss and after.perplexity > 1
    fewer = retrain(run, rows=range(10), out=tmp_path / "fewer")
    assert len(fewer.corpus) == 10 and not _equal(fewer.checkpoints[-1].load(), model)
    index = hw.Index.build(run)
    (item,) = index.query(PAIRS[:1], k=3)
    assert item.proponents[0].example.text_pair == PAIRS[0][1]


@dataclass
class Padded:
    """A user's own collator: pads ids, masks and labels on the right."""

    pad: int

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(item["input_ids"]) for item in items)
        fills = {"input_ids": self.pad, "attention_mask": 0, "labels": -100}
        return {
            name: torch.tensor([[*item[name], *[fill] * (width - len(item[name]))] for item in items])
            for name, fill in fills.items()
        }


def _causal_items(tokenizer: Any, *, masked: bool = True, end: bool = True) -> list[dict[str, Any]]:
    items = []
    for prompt, completion in PAIRS:
        first, ids = tokenizer(prompt)["input_ids"], tokenizer(prompt + completion)["input_ids"]
        ids = [*ids, tokenizer.eos_token_id] if end else ids
        labels = [-100] * len(first) + ids[len(first) :] if masked else list(ids)
        items.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return items


def _arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder), num_train_epochs=3, per_device_train_batch_size=4, learning_rate=1e-2, use_cpu=True,
        save_strategy="epoch", report_to="none", disable_tqdm=True, logging_strategy="no", seed=0,
    )  # fmt: skip


def _trainer(folder: Path, items: list[Any], task: Any, **changes: Any) -> Trainer:
    tokenizer = lm_tokenizer()
    arguments = _arguments(folder)
    for name, value in changes.items():
        setattr(arguments, name, value)
    return Trainer(
        model=tiny_lm("llama"),
        args=arguments,
        train_dataset=items,
        data_collator=Padded(0),
        processing_class=tokenizer,
        callbacks=[hw.Recorder(folder, corpus=CORPUS, task=task)],
    )


def test_a_user_s_own_trainer_of_a_causal_model_is_recorded_and_explained(tmp_path: Path) -> None:
    _trainer(tmp_path, _causal_items(lm_tokenizer()), hw.CausalLM()).train()
    run = hw.Run.open(tmp_path)
    assert len(run.checkpoints) == 3 and run.task.auto == "AutoModelForCausalLM"
    again = retrain(run)
    last = run.checkpoints[-1].load()
    for ours, theirs in zip(again.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert hw.Index.build(run).query(QUERIES[:1], k=2)[0].proponents


def test_a_user_s_own_trainer_of_a_seq2seq_model_is_recorded(tmp_path: Path) -> None:
    tokenizer, model = bert_tokenizer(), tiny_lm("t5")
    items = [
        {"input_ids": tokenizer(p)["input_ids"], "attention_mask": tokenizer(p)["attention_mask"],
         "labels": tokenizer(text_target=c)["input_ids"]}
        for p, c in PAIRS
    ]  # fmt: skip
    Trainer(
        model=model, args=_arguments(tmp_path), train_dataset=items, processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        callbacks=[hw.Recorder(tmp_path, corpus=CORPUS, task=hw.Seq2Seq())],
    ).train()  # fmt: skip
    run = hw.Run.open(tmp_path)
    assert isinstance(run.task, hw.Seq2Seq) and run.task.start_token == 0
    assert hw.Index.build(run).query(QUERIES[:1], k=2)[0].proponents


@pytest.mark.parametrize(
    ("items", "task", "changes", "error", "said"),
    [
        ({}, hw.CausalLM(), {"packing": True}, RunError, "packing=True"),
        (
            {"masked": False},
            hw.CausalLM(),
            {},
            DataError,
            "loss counts 7 tokens of this row, the task's 4",
        ),
        ({"end": False}, hw.CausalLM(), {}, DataError, "row 1: Trainer's row has 6 tokens, the task makes 7"),
        ({}, hw.CausalLM(separator=" : "), {}, DataError, r"what the training did: CausalLM\(max_length=, separator="),
        ({}, hw.Seq2Seq(start_token=0), {}, ModelError, "use CausalLM, not Seq2Seq"),
    ],
)
def test_a_trainer_that_learns_something_else_is_refused_before_it_starts(
    items: Any, task: Any, changes: Any, error: type[HeadwaterError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        _trainer(tmp_path, _causal_items(lm_tokenizer(), **items), task, **changes).train()
    assert not (tmp_path / "headwater" / "run.json").exists()


def test_packed_rows_are_refused_by_their_number(tmp_path: Path) -> None:
    items = _causal_items(lm_tokenizer())[::2]
    with pytest.raises(DataError, match="Packed rows cannot be explained"):
        _trainer(tmp_path, items, hw.CausalLM()).train()


def test_trl_s_completion_masks_are_compared(tmp_path: Path) -> None:
    items = _causal_items(lm_tokenizer())
    for item in items:
        item["completion_mask"] = [int(label != -100) for label in item["labels"]]
    _trainer(tmp_path / "a", items, hw.CausalLM()).train()
    items[0]["completion_mask"][0:3] = [1, 1, 1]
    with pytest.raises(DataError, match="row 1: Trainer's loss counts"):
        _trainer(tmp_path / "b", items, hw.CausalLM()).train()


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_lora_trains_an_adapter_and_is_repeated_to_the_bit(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = _base(tmp_path, kind)
    task: Any = hw.CausalLM() if kind == "llama" else hw.Seq2Seq()
    settings = _settings(base, lora=True, lora_rank=4, learning_rate=5e-2)
    with pytest.warns(HeadwaterWarning, match="weights of a LoRA adapter"):
        run = train(CORPUS, task, tmp_path / "run", settings)
    assert (run.checkpoints[-1].path / "adapter_config.json").is_file()
    assert not (run.checkpoints[-1].path / "model.safetensors").exists()
    model = run.checkpoints[-1].load()
    assert not _equal(model, hw.Checkpoint("base", Path(base), 0, 1.0, None, task.auto).load())
    assert _equal(retrain(run), model)
    assert torch.equal(
        model.get_input_embeddings().weight, tiny_lm(kind).get_input_embeddings().weight
    )  # frozen: scores speak of them all the same
    assert hw.Index.build(run).query(QUERIES[:1], k=2)[0].proponents


def test_what_makes_no_sense_is_said_before_anything_is_written(tmp_path: Path) -> None:
    base = _base(tmp_path, "llama")
    for settings, error, said in [
        (_settings("textcnn"), UsageError, "textcnn classifies"),
        (_settings(base, labels=("a", "b")), UsageError, "has no classes"),
        (_settings(base, max_length=1000), ModelError, "max_length is 1000"),
        (_settings(base, lora=True, lora_targets=("nothing",)), ModelError, "lora_targets"),
        (_settings(_base(tmp_path, "bert")), ModelError, "sees the tokens"),
    ]:
        with pytest.raises(error, match=said):
            train(CORPUS, hw.CausalLM(), tmp_path / "run", settings)
        assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="has no classes to predict"):
        predict(tiny_lm("llama"), lm_tokenizer(), hw.CausalLM(max_length=32), CORPUS)
    with pytest.raises(UsageError, match="predicts classes"):
        evaluate(tiny_lm("llama"), lm_tokenizer(), hw.Classification(), CORPUS)
