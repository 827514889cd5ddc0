"""Which tokens of a prompt and its completion the loss counts, and which characters each token is."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GPT2Config

import builders
import headwater as hw
from headwater.errors import DataError, HeadwaterError, ModelError, UsageError
from headwater.runs.task import NO_TARGET, Encoding
from language.texts import lm_tokenizer, tiny_lm

CHAT = [
    {"role": "system", "content": "the river"},
    {"role": "user", "content": " the baker loves "},
    {"role": "assistant", "content": "warm bread"},
    {"role": "user", "content": "river : river"},
    {"role": "assistant", "content": "the heron"},
]


def _example(prompt: Any, completion: str | None, **more: Any) -> hw.runs.Example:  # type: ignore[name-defined]
    row = {"text": prompt} if completion is None else {"text": prompt, "label": completion}
    return hw.Corpus.read([row], hw.Columns(label=None if completion is None else "label"))[0]


def _encoded(task: hw.CausalLM, prompt: Any, completion: str | None) -> tuple[Encoding, list[tuple[int | None, str]]]:
    example = _example(prompt, completion)
    (encoding,) = task.encode(lm_tokenizer(), [example], offsets=True)
    shown = task.shown(example)
    texts = (shown.text, shown.text_pair)
    words = [
        (part, "" if part is None else str(texts[part])[start:end])
        for part, (start, end) in zip(encoding.parts or [], encoding.offsets or [], strict=True)
    ]
    return encoding, words


def test_the_loss_counts_the_completion_and_the_end_token_alone() -> None:
    encoding, words = _encoded(hw.CausalLM(), "the baker", " loves bread")
    assert words == [(0, "the"), (0, "baker"), (1, "loves"), (1, "bread"), (None, "")]
    assert encoding.targets == [NO_TARGET, NO_TARGET, *encoding.input_ids[2:]]
    assert encoding.input_ids[-1] == lm_tokenizer().eos_token_id and not encoding.truncated
    bare, _ = _encoded(hw.CausalLM(end=False), "the baker", " loves bread")
    assert bare.input_ids == encoding.input_ids[:-1]


def test_a_token_across_the_border_belongs_to_the_completion() -> None:
    encoding, words = _encoded(hw.CausalLM(end=False), "the bak", "er loves")
    assert words == [(0, "the"), (1, "er"), (1, "loves")]  # "baker" is one token: its end is the completion's
    assert encoding.targets == [NO_TARGET, *encoding.input_ids[1:]]


def test_a_separator_stands_between_and_belongs_to_no_word() -> None:
    encoding, words = _encoded(hw.CausalLM(separator=" : ", end=False), "the baker", "loves bread")
    assert words == [(0, "the"), (0, "baker"), (None, ""), (1, "loves"), (1, "bread")]
    assert encoding.targets[:3] == [NO_TARGET] * 3  # type: ignore[index]


def test_every_token_of_a_plain_text_counts() -> None:
    encoding, words = _encoded(hw.CausalLM(), "the baker loves", None)
    assert encoding.targets == encoding.input_ids
    assert [part for part, _ in words] == [0, 0, 0, None]


def test_only_the_last_turn_of_a_conversation_counts_and_every_content_is_found_in_what_is_shown() -> None:
    task = hw.CausalLM()
    encoding, words = _encoded(task, CHAT, None)
    shown = task.shown(_example(CHAT, None))
    assert shown.text_pair == shown.label == "the heron"
    assert shown.text.splitlines()[1] == "user:  the baker loves "
    seen = [text for part, text in words if part == 0]
    assert seen == ["the", "river", "the", "baker", "loves", "warm", "bread", "river", ":", "river"]
    assert [text for part, text in words if part == 1] == ["the", "heron"]
    tokenizer = lm_tokenizer()
    kept = [token for token in encoding.targets or [] if token != NO_TARGET]
    assert tokenizer.convert_ids_to_tokens(kept) == ["the", "heron", "[SEP]"]


def test_a_template_that_trims_and_frames_contents_is_followed() -> None:
    tokenizer = lm_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} : ( {{ m['content'] | trim }} )\n{% endfor %}"
        "{% if add_generation_prompt %}assistant : ({% endif %}"
    )
    example = _example(CHAT, None)
    (encoding,) = hw.CausalLM().encode(tokenizer, [example], offsets=True)
    shown = hw.CausalLM().shown(example)
    texts = (shown.text, shown.text_pair)
    words = [
        str(texts[part])[start:end]
        for part, (start, end) in zip(encoding.parts or [], encoding.offsets or [], strict=True)
        if part is not None
    ]
    assert " ".join(words) == "the river the baker loves warm bread river : river the heron"


def test_a_completion_keeps_its_beginning_when_the_row_is_cut() -> None:
    encoding, words = _encoded(hw.CausalLM(max_length=4), "the baker", " loves warm bread")
    assert encoding.truncated and words == [(0, "the"), (0, "baker"), (1, "loves"), (1, "warm")]
    assert len(encoding.targets or []) == 4


@pytest.mark.parametrize(
    ("task", "prompt", "completion", "error", "said"),
    [
        (hw.CausalLM(max_length=2), "the baker", " loves", DataError, "row 1: its prompt has 2 of the 2 tokens"),
        (hw.CausalLM(end=False), "the", None, DataError, "row 1: its text is too short"),
        (hw.CausalLM(chat=False), CHAT, None, DataError, "row 1: a conversation, but the task says chat=False"),
        (hw.CausalLM(), CHAT[:-1], None, DataError, "row 1: there is no turn of the assistant at its end"),
        (hw.CausalLM(), CHAT[2:3], None, DataError, "row 1: the conversation holds the assistant's turn alone"),
    ],
)
def test_a_row_that_teaches_nothing_is_an_error_with_its_number(
    task: hw.CausalLM, prompt: Any, completion: str | None, error: type[HeadwaterError], said: str
) -> None:
    with pytest.raises(error, match=said):
        task.encode(lm_tokenizer(), [_example(prompt, completion)])


def test_what_a_tokenizer_lacks_is_said() -> None:
    with pytest.raises(ModelError, match="no end token"):
        hw.CausalLM().encode(lm_tokenizer(end=False), [_example("the", " baker")])
    with pytest.raises(ModelError, match="no chat template"):
        hw.CausalLM(chat=True).encode(builders.plain_tokenizer(), [_example("the", " baker")])


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], "row 2, column 'text': the conversation is empty"),
        ([{"role": "user", "content": None}], "row 2, column 'text': turn 1 has no content"),
        ([{"role": "user", "content": "a", "tools": "x"}], "turn 1 holds 'tools'"),
    ],
)
def test_a_broken_conversation_is_an_error_with_row_and_turn(turns: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        hw.Corpus.read([{"text": CHAT}, {"text": turns}], hw.Columns(label=None))


def test_conversations_survive_a_corpus_on_disk(tmp_path: Any) -> None:
    corpus = hw.Corpus.read([{"text": CHAT}, {"text": CHAT[:3]}], hw.Columns(label=None))
    corpus.save(tmp_path / "c.parquet")
    again = hw.Corpus.read(tmp_path / "c.parquet")
    assert again.fingerprint == corpus.fingerprint and again[1].text == corpus[1].text
    assert again[0].text.turns == CHAT  # type: ignore[attr-defined]


def test_conversations_cannot_be_classified() -> None:
    with pytest.raises(DataError, match="cannot be classified"):
        hw.Classification().encode(lm_tokenizer(), [_example(CHAT, "good")])


def test_models_of_another_kind_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="use Seq2Seq"):
        hw.CausalLM().check_model(tiny_lm("t5").config)
    with pytest.raises(ModelError, match="use CausalLM"):
        hw.Seq2Seq().check_model(tiny_lm("gpt2").config)
    with pytest.raises(ModelError, match="sees the tokens it is to predict"):
        hw.CausalLM().check_model(tiny_lm("bert").config)
    with pytest.raises(ModelError, match="saved with another head"):
        hw.CausalLM().check_model(GPT2Config(architectures=["GPT2ForSequenceClassification"]))
    with pytest.raises(UsageError, match="reduction"):
        hw.CausalLM(reduction="max")
