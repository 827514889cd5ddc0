"""Labels become classes, texts become batches, batches become losses: as training had them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, PreTrainedTokenizerFast, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother

import builders
from headwater.errors import DataError, ModelError, UsageError
from headwater.models.textcnn import TextCNNConfig
from headwater.runs.classification import Classification
from headwater.runs.corpus import Columns, Corpus
from headwater.runs.kinds import task_from_json
from headwater.runs.task import length_limit


def config(*names: str, **options: Any) -> BertConfig:
    label2id = {name: number for number, name in enumerate(names)}
    return BertConfig(label2id=label2id, id2label=dict(enumerate(names)), **options)


def targets(labels: list[Any], model: BertConfig) -> list[int]:
    return Classification().targets(labels, model, where="train.csv")


def test_labels_match_by_name_never_by_their_order() -> None:
    assert targets(["spam", "ham", "spam"], config("spam", "ham")) == [0, 1, 0]
    assert targets(["spam", "ham", "spam"], config("ham", "spam")) == [1, 0, 1]


@given(st.permutations(["ant", "bee", "cat", "dog"]))
def test_any_order_of_names_is_kept(names: list[str]) -> None:
    assert targets(sorted(names), config(*names)) == [names.index(name) for name in sorted(names)]


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([1, 0], ("ham", "spam"), [1, 0]),  # class numbers
        ([1, 0], ("LABEL_0", "LABEL_1"), [1, 0]),  # transformers' default names
        (["1", "0"], ("LABEL_0", "LABEL_1"), [1, 0]),  # the same from a csv file
        (["LABEL_1"], ("LABEL_0", "LABEL_1"), [1]),
        ([5, 3], ("5", "3"), [0, 1]),  # names that are numbers are names
        (["5", "3"], ("5", "3"), [0, 1]),
        ([1, 0], ("1", "0"), [0, 1]),
        ([-1, 1], ("-1", "1"), [0, 1]),
    ],
)
def test_whole_numbers_are_names_first_and_class_numbers_else(
    labels: list[Any], names: tuple[str, ...], expected: list[int]
) -> None:
    assert targets(labels, config(*names)) == expected


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (
            ["World", "Sport"],
            ("World", "Sports"),
            r"train.csv, row 2: label 'Sport' .*\(World, Sports\).*Beside it stand World",
        ),
        ([0, 2], ("a", "b"), "row 2: label 2 is not"),
        ([0, -1], ("a", "b"), "row 2: label -1 is not"),
        (["0", "1"], ("ham", "spam"), "row 1: label '0' is not"),  # digits from csv: numbers of what?
        ([0], ("5", "3"), "row 1: label 0 is not"),
        (["Ham"], ("ham", "spam"), "row 1: label 'Ham' is not"),
        ([None], ("ham", "spam"), "row 1: there is no label"),
    ],
)
def test_a_label_without_a_class_is_told_with_both_sides(
    labels: list[Any], names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        targets(labels, config(*names))


def test_the_row_of_a_label_is_told_where_only_some_rows_are_asked() -> None:
    with pytest.raises(DataError, match="row 1,204"):
        Classification().targets(["no"], config("a", "b"), where="x", rows=[1203])


def test_what_is_not_one_label_of_several_is_refused_by_name() -> None:
    check = Classification().check_model
    check(config("a", "b"))
    with pytest.raises(ModelError, match="multi-label classification is not supported yet"):
        check(config("a", "b", problem_type="multi_label_classification"))
    with pytest.raises(ModelError, match="regression"):
        check(config("a", "b", problem_type="regression"))
    with pytest.raises(ModelError, match="regression"):
        check(config("a"))
    with pytest.raises(ModelError, match=r"no padding id.*model\.config\.pad_token_id"):
        check(config("a", "b", pad_token_id=None))
    with pytest.raises(ModelError, match="class_weights name a, but the model's labels are a, b"):
        Classification(class_weights={"a": 2.0}).check_model(config("a", "b"))


def test_options_that_make_no_sense_are_refused() -> None:
    for options in ({"max_length": 0}, {"label_smoothing": 1.0}, {"class_weights": {"a": -1.0}}):
        with pytest.raises(UsageError):
            Classification(**options)


def test_a_task_survives_json() -> None:
    for task in (
        Classification(),
        Classification(pairs=True, max_length=9, label_smoothing=0.1, class_weights={"a": 1, "b": 2}),
    ):
        assert task_from_json(task.to_json()) == task


@pytest.mark.parametrize("pairs", [False, True])
def test_tokens_are_those_a_user_gets_row_by_row(pairs: bool, tokenizer: PreTrainedTokenizerFast) -> None:
    columns = Columns(text_pair="pair" if pairs else None)
    corpus = Corpus.read(builders.rows(12, pairs=True), columns)
    for limit in (6, 11, 64):
        encodings = Classification(pairs=pairs, max_length=limit).encode(tokenizer, list(corpus), offsets=True)
        for example, encoding in zip(corpus, encodings, strict=True):
            alone = tokenizer(example.text, example.text_pair, truncation=True, max_length=limit)
            whole = tokenizer(example.text, example.text_pair, truncation=False)
            assert encoding.input_ids == alone["input_ids"]
            assert encoding.token_type_ids == alone["token_type_ids"]
            assert encoding.truncated == (len(whole["input_ids"]) > limit)


def test_spans_point_at_the_characters_of_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = Corpus.read([{"text": "The HERON, won’t", "pair": "un été", "label": "x"}], Columns(text_pair="pair"))
    (encoding,) = Classification(pairs=True).encode(tokenizer, list(corpus), offsets=True)
    assert encoding.offsets is not None and encoding.parts is not None
    assert encoding.parts.count(None) == 3
    shown = [
        (corpus[0].text, corpus[0].text_pair)[part][slice(*span)]  # type: ignore[index]
        for span, part in zip(encoding.offsets, encoding.parts, strict=True)
        if part is not None
    ]
    assert "".join(shown) == "TheHERON,won’tunété"
    assert Classification(pairs=True).encode(tokenizer, list(corpus))[0].offsets is None


def test_one_call_of_the_tokenizer_leaves_no_trace_in_the_next(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = list(Corpus.read(builders.rows(3)))
    before = Classification().encode(tokenizer, examples)
    Classification(max_length=4).encode(tokenizer, examples)
    assert Classification().encode(tokenizer, examples) == before


def test_a_batch_is_padded_on_the_right_whatever_the_tokenizer_says() -> None:
    tokenizer = builders.wordpiece_tokenizer()
    tokenizer.padding_side = "left"
    examples = list(Corpus.read([{"text": "the mill", "label": "a"}, {"text": "the old mill .", "label": "a"}]))
    task = Classification()
    encodings = task.encode(tokenizer, examples)
    batch = task.collate(encodings, tokenizer)
    tokenizer.padding_side = "right"
    expected = tokenizer([e.text for e in examples], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(torch.equal(batch[name], expected[name]) and batch[name].dtype == torch.int64 for name in batch)


def test_a_tokenizer_without_token_types_or_padding() -> None:
    tokenizer = builders.plain_tokenizer()
    task = Classification()
    encodings = task.encode(tokenizer, list(Corpus.read(builders.rows(2))))
    assert set(task.collate(encodings, tokenizer)) == {"input_ids", "attention_mask"}
    tokenizer.pad_token = None
    with pytest.raises(ModelError, match="no padding token"):
        task.collate(encodings, tokenizer)


def test_a_limit_that_leaves_no_room_and_a_missing_second_text_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = list(Corpus.read(builders.rows(2)))
    with pytest.raises(UsageError, match="no room"):
        Classification(max_length=2).encode(tokenizer, examples)
    with pytest.raises(DataError, match="row 1: there is no second text"):
        Classification(pairs=True).encode(tokenizer, examples)
    empty = list(Corpus.read([{"text": "a", "label": "x"}, {"text": "\x00\x01", "label": "x"}]))
    with pytest.raises(DataError, match="row 2: the tokenizer makes no token"):
        Classification().encode(builders.plain_tokenizer(), empty)


def test_the_length_limit_is_what_the_model_can_take() -> None:
    tokenizer = builders.wordpiece_tokenizer(max_length=int(1e30))
    for kind, expected in (("bert", 64), ("roberta", 63), ("distilbert", 64), ("gpt2", 64)):
        model = builders.tiny_model(kind, tokenizer)
        assert length_limit(tokenizer, model.config) == expected
        task = Classification(max_length=expected)
        ids = torch.full((1, expected), 7)
        assert torch.isfinite(task.predict(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})).all()
        assert Classification().with_limit(tokenizer, model.config).max_length == expected
        with pytest.raises(ModelError, match=f"at most {expected} tokens"):
            Classification(max_length=expected + 1).with_limit(tokenizer, model.config)
    assert length_limit(tokenizer, TextCNNConfig(max_length=20)) == 20
    assert length_limit(builders.wordpiece_tokenizer(max_length=12), model.config) == 12


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, {"bad": 0.5, "good": 3.0}])
def test_losses_are_those_of_torch_one_by_one_in_float32(
    smoothing: float, weights: dict[str, float] | None, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = builders.tiny_model(tokenizer=tokenizer).to(torch.bfloat16)
    task = Classification(label_smoothing=smoothing, class_weights=weights)
    examples = list(Corpus.read(builders.rows(6)))
    numbers = torch.tensor(task.targets([e.label for e in examples], model.config, where="rows"))
    batch = task.collate(task.encode(tokenizer, examples), tokenizer)
    losses = task.losses(model, batch, numbers)
    weight = torch.tensor([0.5, 3.0]) if weights else None
    module = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing, reduction="sum")
    logits = model(**batch).logits.float()
    one_by_one = torch.stack([module(logits[i : i + 1], numbers[i : i + 1]) for i in range(6)])
    assert losses.dtype == torch.float32 and losses.shape == (6,)
    torch.testing.assert_close(losses, one_by_one)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_mean_loss_is_the_one_that_trainer_minimises(
    smoothing: float, tokenizer: PreTrainedTokenizerFast, tmp_path: Any
) -> None:
    model = builders.tiny_model(tokenizer=tokenizer)
    arguments = TrainingArguments(
        str(tmp_path), label_smoothing_factor=smoothing, use_cpu=True, report_to="none", disable_tqdm=True
    )
    rows = builders.rows(8)
    trainer = Trainer(model=model, args=arguments, processing_class=tokenizer)
    assert isinstance(trainer.label_smoother, LabelSmoother) == (smoothing > 0)
    encoded = [dict(item) for item in builders.Encoded(rows, tokenizer)]
    inputs = trainer.data_collator(encoded)
    expected = trainer.compute_loss(model, inputs)
    task = Classification(label_smoothing=smoothing)
    examples = list(Corpus.read(rows))
    numbers = torch.tensor(task.targets([e.label for e in examples], model.config, where="rows"))
    losses = task.losses(model, task.collate(task.encode(tokenizer, examples), tokenizer), numbers)
    torch.testing.assert_close(losses.mean(), expected)


def test_a_gpt2_scores_a_text_alike_alone_and_in_a_batch() -> None:
    tokenizer = builders.plain_tokenizer()
    model = builders.tiny_model("gpt2", tokenizer)
    task = Classification()
    encodings = task.encode(tokenizer, list(Corpus.read(builders.rows(6))))
    together = task.predict(model, task.collate(encodings, tokenizer))
    alone = torch.cat([task.predict(model, task.collate([encoding], tokenizer)) for encoding in encodings])
    torch.testing.assert_close(together, alone)
