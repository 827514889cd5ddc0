"""A row's words by place: the same score, taken apart where the postings of an index cannot."""

from collections import defaultdict

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import WEIGHTS, make_run
from headwater.attribution.by_place import has_places, words_by_place
from headwater.errors import UsageError

ROWS = [
    {"text": "the heron loves the heron and the river .", "label": "good"},
    {"text": "the river hates unbelievable unbelievable rain", "label": "bad"},
    {"text": "my neighbour praises warm bread", "label": "good"},
]
QUERY = "the heron hates the unbelievable river"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> hw.Index:
    models = [builders.tiny_model("bert", tokenizer, seed=seed) for seed in (0, 1)]
    run = make_run(tmp_path_factory.mktemp("places"), models, tokenizer, ROWS)
    return hw.Index.build(run, dtype="float32", show=False)


def pushed(index: hw.Index, checkpoint: int, text: str, target: int) -> tuple[list[int], list[str], torch.Tensor]:
    """The oracle: tokens, the word of each, and the gradient at each place, through the model's own inputs_embeds."""
    model = index.run.checkpoints[checkpoint].load()
    encoded = index.run.tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    leaf = model.get_input_embeddings()(encoded["input_ids"]).detach().requires_grad_(True)
    logits = model(inputs_embeds=leaf, attention_mask=encoded["attention_mask"]).logits
    (gradient,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([target])), leaf)
    words = []
    for start, end in encoded["offset_mapping"][0].tolist():
        while start > 0 and text[start - 1] != " ":
            start -= 1
        words.append(f"{start}:{text[start:end].split(maxsplit=1)[0]}" if end else "")
    return encoded["input_ids"][0].tolist(), words, gradient[0].double()


@pytest.mark.parametrize("row", [0, 1, 2])
def test_every_pair_of_places_is_the_oracles_and_all_add_up_to_the_score(index: hw.Index, row: int) -> None:
    truth: dict[tuple[int, int], float] = defaultdict(float)
    special = 0.0
    for number, weight in enumerate(WEIGHTS):
        label2id = index.run.label2id
        ours = pushed(index, number, QUERY, label2id["bad"])
        theirs = pushed(index, number, ROWS[row]["text"], label2id[ROWS[row]["label"]])
        for token, word, gradient in zip(*ours, strict=True):
            for other, held, its in zip(*theirs, strict=True):
                if token != other:
                    continue
                value = weight * float(gradient @ its)
                if word and held:
                    truth[int(held.split(":")[0]), int(word.split(":")[0])] += value
                else:
                    special += value
    found = words_by_place(index, [QUERY], ["bad"], row)
    scale = max(map(abs, [*truth.values(), special]))
    shown = {
        (pair.train_spans[0].start, pair.query_spans[0].start): pair.score
        for pair in found
        if pair.part == "words" and not pair.special
    }
    for key, value in truth.items():
        assert shown.get(key, 0.0) == pytest.approx(value, abs=1e-4 * scale), key
    assert sum(pair.score for pair in found if pair.special) == pytest.approx(special, abs=1e-4 * scale)
    score = float(index.scores([QUERY], ["bad"], show=False)[0, row])
    assert sum(pair.score for pair in found) == pytest.approx(score, rel=1e-4, abs=1e-6 * scale)


def test_two_places_of_one_word_that_share_a_posting_are_told_apart(index: hw.Index) -> None:
    (item,) = index.query([QUERY], ["bad"], show=False)
    shown = {part.example.row: part for part in (*item.proponents, *item.opponents)}
    herons = [pair for pair in shown[0].words if pair.train == "heron"]
    assert [len(pair.train_spans) for pair in herons] == [2]
    apart = [pair for pair in words_by_place(index, [QUERY], ["bad"], 0) if pair.train == "heron"]
    assert [len(pair.train_spans) for pair in apart] == [1, 1]
    assert apart[0].score != apart[1].score
    assert sum(pair.score for pair in apart) == pytest.approx(herons[0].score, rel=1e-4)


def test_a_row_that_is_not_there_and_an_index_of_a_part_are_refused(index: hw.Index, tmp_path: object) -> None:
    with pytest.raises(UsageError, match="no row 3"):
        words_by_place(index, [QUERY], ["bad"], 3)
    part = hw.Index.build(index.run, f"{tmp_path}/part", max_words=2, show=False)
    assert has_places(index) and not has_places(part)
    with pytest.raises(UsageError, match="a part of what each row pushed"):
        words_by_place(part, [QUERY], ["bad"], 0)
