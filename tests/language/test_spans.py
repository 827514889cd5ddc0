"""A part of a completion is explained as if the text ended there, and all before it had been the prompt."""

from pathlib import Path

import numpy as np
import pytest

import headwater as hw
from headwater.errors import DataError, UsageError
from language.texts import PAIR_COLUMNS, bert_tokenizer, lm_tokenizer, pair_rows, run_of, tiny_lm

PROMPT, COMPLETION = "the old miller", " hates unbelievable stories and rain ."


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> hw.Index:
    """Of a llama whose texts have no end token, so that parts make up the whole."""
    task = hw.CausalLM(max_length=32, end=False)
    folder = tmp_path_factory.mktemp("spans")
    models = [tiny_lm("llama", seed=seed) for seed in (0, 1)]
    run = run_of(folder, models, lm_tokenizer(), pair_rows(), task, PAIR_COLUMNS)
    return hw.Index.build(run, dtype="float32", show=False)


def _scores(index: hw.Index, prompt: str, completion: str, span: tuple[int, int] | None = None) -> np.ndarray:
    given = None if span is None else [span]
    return index.scores([prompt], [completion], spans=given, show=False)[0]


@pytest.mark.parametrize("cut", [6, 19, 27])  # between words
def test_a_part_is_what_its_own_question_would_be_and_the_parts_make_up_the_whole(index: hw.Index, cut: int) -> None:
    whole = _scores(index, PROMPT, COMPLETION)
    first, last = (_scores(index, PROMPT, COMPLETION, span) for span in ((0, cut), (cut, len(COMPLETION))))
    assert np.abs(first).max() > 1e-6 and np.abs(last).max() > 1e-6
    np.testing.assert_allclose(first, _scores(index, PROMPT, COMPLETION[:cut]), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(last, _scores(index, PROMPT + COMPLETION[:cut], COMPLETION[cut:]), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(first + last, whole, rtol=1e-4, atol=1e-7)


def test_a_token_counts_where_the_span_only_touches_it(index: hw.Index) -> None:
    word = COMPLETION.index("stories")
    inside = _scores(index, PROMPT, COMPLETION, (word + 1, word + 2))
    start = _scores(index, PROMPT, COMPLETION, (word, word + 4))
    np.testing.assert_array_equal(inside, start)  # "stor" is one token


def test_the_answer_says_which_part_it_explains(index: hw.Index) -> None:
    word = COMPLETION.index("stories")
    span = (word, word + len("stories"))
    answer = index.query([PROMPT], [COMPLETION], 3, spans=[span], show=False)[0]
    whole = index.query([PROMPT], [COMPLETION], 3, show=False)[0]
    assert answer.query.label == "stories" and answer.query.example.text_pair == COMPLETION
    assert 0 < answer.query.loss < whole.query.loss
    own = index.query([PROMPT], None, 3, spans=[(0, 3)], show=False)[0]
    assert own.query.label == index.query([PROMPT], None, 3, show=False)[0].query.label[:3]


@pytest.mark.parametrize("span", [(-1, 3), (3, 3), (5, 2), (0, len(COMPLETION) + 1), (10_000, 10_001)])
def test_a_span_that_is_not_there_says_so(index: hw.Index, span: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="span from"):
        index.query([PROMPT], [COMPLETION], spans=[span], show=False)


def test_spans_are_one_a_query_and_of_causal_models(index: hw.Index, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one a query"):
        index.query([PROMPT], [COMPLETION], spans=[None, None], show=False)
    run = run_of(tmp_path, [tiny_lm("t5")], bert_tokenizer(), pair_rows(), hw.Seq2Seq(max_length=32), PAIR_COLUMNS)
    with pytest.raises(UsageError, match="causal"):
        hw.Index.build(run, show=False).query([PROMPT], ["rain"], spans=[(0, 2)], show=False)
