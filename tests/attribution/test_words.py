"""From tokens to words: whatever the script and the tokenizer, a word is what stands in the text, and scores add up."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import make_run
from headwater.attribution.attributions import WordPair
from headwater.attribution.build import special_tokens
from headwater.attribution.explain import TokenNames, word_pairs
from headwater.attribution.pairs import KEPT, KEPT_SPECIAL
from headwater.attribution.words import Texts, Words, split_words
from headwater.methods import Contributions
from headwater.models.textcnn import TextCNN, TextCNNConfig
from headwater.runs import Example

TEXTS = [
    "the heron loves warm bread .",
    "Don't stop: it's a well-known mother-in-law's trick!",
    "e\u0301te\u0301 na\u0308ive cafe\u0301 İstanbul ﬁne",
    "家族が東京へ行く。你好，世界",
    "नमस्ते दुनिया, यह हिन्दी है।",
    "מבצע free לסוף הָשָׁבוּעַ: התקשרו",
    "عرض free لِنهاية الأسبوع",
    "👩‍👩‍👧‍👦 family 👍🏽 🇵🇹 ok",
    "zero\u200bwidth fr\u200bee \u200b\ufeff end",
    "  leading,\ttabs\nand\r\nlines  ",
    "สวัสดีครับ ข้าว",
    "snake_case __init__ a1b2 3.14 €5 x²",
    "\u202e override \u2066 isolate",
]


def _fast(backend: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, model_input_names=["input_ids", "attention_mask"], **names
    )


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's: a space belongs to the token after it, and one token has every duty."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(builders.SENTENCES, trainer)
    end = "<|endoftext|>"
    return _fast(backend, pad_token=end, eos_token=end, bos_token=end, unk_token=end)


def metaspace() -> PreTrainedTokenizerFast:
    """As Llama's: a mark for the space, and bytes for what it does not know."""
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    letters = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=450, special_tokens=special + letters, show_progress=False)
    backend.train_from_iterator(builders.SENTENCES, trainer)
    return _fast(backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def unigram() -> PreTrainedTokenizerFast:
    """As T5's and XLNet's: the most likely pieces, an unknown character is <unk>."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<pad>", "<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(builders.SENTENCES, trainer)
    return _fast(backend, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "wordpiece": lambda: builders.wordpiece_tokenizer(max_length=64),
    "byte-level": byte_level,
    "metaspace": metaspace,
    "unigram": unigram,
}
_MADE: dict[str, PreTrainedTokenizerFast] = {}


def _tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return _MADE.setdefault(kind, TOKENIZERS[kind]())


def _split(kind: str, *texts: str) -> tuple[Words, list[tuple[int, int]], list[int | None]]:
    task = hw.Classification(pairs=len(texts) == 2, max_length=64)
    row = Example(0, None, texts[0], texts[1] if len(texts) == 2 else None, None, "")
    (encoding,) = task.encode(_tokenizer(kind), [row], offsets=True)
    assert encoding.offsets is not None and encoding.parts is not None
    return split_words(texts, encoding), encoding.offsets, encoding.parts


def _check(kind: str, *texts: str) -> None:
    words, offsets, parts = _split(kind, *texts)
    for part, text in enumerate(texts):
        spans = [(word.start, word.end) for word in words.words if word.part == part]
        covered = [at for start, end in spans for at in range(start, end)]
        # In order, apart, without white space; and every visible character is of a word.
        assert covered == [at for at, character in enumerate(text) if not character.isspace()]
        assert all(start < end for start, end in spans)
    for (start, end), part, number in zip(offsets, parts, words.of_place, strict=True):
        if part is None:
            assert number is None
            continue
        visible = [at for at in range(start, end) if not texts[part][at].isspace()]
        if visible:
            word = words.words[number]
            assert word.part == part and word.start <= visible[0] < word.end


_ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=25)
_PIECES = st.lists(
    st.sampled_from([*"aZé9'-_.,!?  \n\t\u200b\u200d\u0301家שĠ▁", "नि", "👍🏽", "ข้", "##", "[SEP]"]),
    min_size=1, max_size=20,
).map("".join)  # fmt: skip


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.one_of(_ANY, _PIECES).filter(lambda text: text.strip() != ""))
@example(text="a")
def test_words_lie_in_the_text_and_hold_the_first_visible_character_of_their_tokens(kind: str, text: str) -> None:
    if _tokenizer(kind)(text)["input_ids"]:  # else the task refuses it: there is no token
        _check(kind, text)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_so_they_do_in_every_script(kind: str) -> None:
    for text in TEXTS:
        _check(kind, text)
    _check("wordpiece", "the heron's nest 家", "नमस्ते free-entry")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop: it's well-known!", ["Don't", "stop", ":", "it's", "well-known", "!"]),
        ("rock 'n' roll’s -end- a--b", ["rock", "'", "n", "'", "roll’s", "-", "end", "-", "a", "-", "-", "b"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("東京へ go", ["東", "京", "へ", "go"]),
        ("cafe\u0301 İs ﬁ", ["cafe\u0301", "İs", "ﬁ"]),
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("لِنهاية x", ["لِنهاية", "x"]),
        ("a_b €5", ["a", "_", "b", "€", "5"]),
    ],
)
def test_a_word_is_what_a_person_reads(text: str, expected: list[str]) -> None:
    words, _, _ = _split("metaspace", text)
    assert [words.surface(number) for number in range(len(words.words))] == expected


def _answer(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, rows: list[str], query: str, kind: str = "bert"):
    """All word pairs of every row of a tiny index with one query, by row number."""
    labels = ["good", "bad"] * len(rows)
    model = builders.tiny_model(kind, tokenizer)
    data = [{"text": text, "label": label} for text, label in zip(rows, labels, strict=False)]
    run = make_run(tmp_path, [model], tokenizer, data, weights=(1.0,), task=hw.Classification(max_length=64))
    (answer,) = hw.Index.build(run, dtype="float32").query([query], ["good"], k=len(rows))
    return {influence.example.row: influence for influence in (*answer.proponents, *answer.opponents)}


def _words(pairs: tuple[WordPair, ...]) -> set[tuple[str, str]]:
    return {(pair.train, pair.query) for pair in pairs if not pair.special}


def test_a_word_of_several_tokens_is_one_word(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer.tokenize("unbelievable")) > 1
    found = _answer(tmp_path, tokenizer, ["Unbelievable bread", "unbelievable rain"], "so unbelievable .")
    for row, written in ((0, "Unbelievable"), (1, "unbelievable")):
        (pair,) = [pair for pair in found[row].words if not pair.special]
        assert (pair.train, pair.query, pair.places, pair.via) == (written, "unbelievable", 1, None)
        assert [(span.start, span.end, span.part) for span in pair.train_spans] == [(0, 12, 0)]
        assert [(span.start, span.end, span.part) for span in pair.query_spans] == [(3, 15, 0)]


def test_a_repeated_token_says_how_many_places_share_its_score(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = _answer(tmp_path, tokenizer, ["the heron The river THE mill", "bread"], "the rain the mill")
    pairs = [pair for pair in found[0].words if pair.query == "the"]
    # One posting of the row meets each of the query's two places.
    assert [pair.places for pair in pairs] == [3, 3] and {pair.train for pair in pairs} == {"the"}
    assert sorted(pair.query_spans[0].start for pair in pairs) == [0, 9]
    assert all([span.start for span in pair.train_spans] == [0, 10, 20] for pair in pairs)
    assert [pair.places for pair in found[0].words if pair.query == "mill"] == [1]


def test_a_piece_of_two_different_words_stands_by_itself(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("zig pig") == ["z", "##i", "##g", "p", "##i", "##g"]
    found = _answer(tmp_path, tokenizer, ["zig pig", "zag"], "zig")
    by_train = {pair.train: pair for pair in found[0].words if not pair.special}
    assert set(by_train) == {"zig", "##i", "##g"}
    for piece in ("##i", "##g"):
        assert by_train[piece].via == piece
        assert [(span.start, span.end) for span in by_train[piece].train_spans] == [(0, 3), (4, 7)]
    assert [(span.start, span.end) for span in by_train["zig"].train_spans] == [(0, 3)]  # through its z, its own
    shared = [pair for pair in found[1].words if not pair.special]
    assert {(pair.train, pair.query) for pair in shared} == {("zag", "zig")} and shared[0].via is not None


def test_special_tokens_are_shown_as_such_also_where_a_text_spells_them_out(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = ["the heron [SEP] the river", "warm bread"]
    found = _answer(tmp_path, tokenizer, rows, "bread [SEP] rain [CLS] and")
    for influence in found.values():
        assert Counter(pair.train for pair in influence.words if pair.special).keys() == {"[CLS]", "[SEP]"}
        assert all(not pair.train_spans and not pair.query_spans for pair in influence.words if pair.special)
        assert influence.special == pytest.approx(sum(pair.score for pair in influence.words if pair.special))
    assert _words(found[0].words) == set()  # rows and query meet in special tokens alone
    assert _words(found[1].words) == {("bread", "bread")}


@pytest.mark.parametrize(("tokens", "kind"), [("byte-level", "gpt2"), ("metaspace", "llama"), ("unigram", "gpt2")])
def test_names_of_pieces_are_readable_and_spans_begin_after_the_space(tokens: str, kind: str, tmp_path: Path) -> None:
    tokenizer = _tokenizer(tokens)
    rows = ["so the heron loves 家 unbelievable stories 👍", "an old miller hates long winters"]
    found = _answer(tmp_path, tokenizer, rows, "old stories of the heron 家族 loves 👍", kind)
    pairs = [pair for influence in found.values() for pair in influence.words]
    shown = {(pair.train, pair.query) for pair in found[0].words}
    assert {("heron", "heron"), ("stories", "stories"), ("loves", "loves")} <= shown
    assert not any("Ġ" in name or "▁" in name for pair in pairs for name in (pair.train, pair.query))
    for row, influence in found.items():
        for pair in influence.words:
            for span in pair.train_spans:
                assert rows[row][span.start : span.end] == rows[row][span.start : span.end].strip() != ""


def test_an_unknown_word_is_a_word_unless_its_token_has_other_duties(tmp_path: Path) -> None:
    special = {}
    for kind, model in (("wordpiece", "bert"), ("byte-level", "gpt2")):
        tokenizer = _tokenizer(kind)
        run = make_run(
            tmp_path / kind, [builders.tiny_model(model, tokenizer)], tokenizer, builders.rows(4), weights=(1.0,)
        )
        special[kind] = {tokenizer.convert_ids_to_tokens(token) for token in special_tokens(run)}
    assert special == {"wordpiece": {"[PAD]", "[CLS]", "[SEP]", "[MASK]"}, "byte-level": {"<|endoftext|>"}}


def test_a_text_of_one_script_meets_itself(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = ["家族が東京へ行く", "नमस्ते दुनिया", "مرحبا بالعالم"]
    found = _answer(tmp_path, _tokenizer("byte-level"), rows, "東京 नमस्ते مرحبا", "gpt2")
    assert {("東", "東"), ("京", "京")} <= _words(found[0].words)
    assert ("नमस्ते", "नमस्ते") in _words(found[1].words) and ("مرحبا", "مرحبا") in _words(found[2].words)


def test_the_second_text_of_a_pair_has_spans_of_its_own(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = [
        {"text": "the heron loves rain", "pair": "warm bread", "label": "good"},
        {"text": "warm rain", "pair": "the river", "label": "bad"},
    ]
    model = builders.tiny_model("bert", tokenizer)
    task, columns = hw.Classification(pairs=True, max_length=32), hw.Columns(text_pair="pair")
    run = make_run(tmp_path, [model], tokenizer, data, weights=(1.0,), columns=columns, task=task)
    (answer,) = hw.Index.build(run).query([("old bread", "cold rain")], ["good"])
    assert [word.part for word in answer.words.words] == [0, 0, 1, 1]
    spans = {}
    for influence in (*answer.proponents, *answer.opponents):
        for pair in influence.words:
            if not pair.special:
                row, query = pair.train_spans[0], pair.query_spans[0]
                spans[influence.example.row, pair.train] = (row.start, row.part, query.start, query.part)
    assert spans == {(0, "rain"): (16, 0, 5, 1), (0, "bread"): (5, 1, 4, 0), (1, "rain"): (5, 0, 5, 1)}


def test_places_that_a_model_does_not_look_at_are_no_pairs(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """TextCNN reads the largest answer of each filter: most places have gradient 0, and many scores would be equal."""
    names = {"label2id": builders.LABEL2ID, "id2label": {v: k for k, v in builders.LABEL2ID.items()}}
    torch.manual_seed(0)
    config = TextCNNConfig(vocab_size=len(tokenizer), hidden_size=16, channels=2, max_length=32, **names)
    run = make_run(tmp_path, [TextCNN(config)], tokenizer, builders.rows(12), weights=(1.0,))
    query = "the heron the river the mill the bread the rain unbelievable stories the winters"
    (answer,) = hw.Index.build(run).query([query], ["good"], k=12)
    pairs = [pair for influence in (*answer.proponents, *answer.opponents) for pair in influence.words]
    assert pairs and all(pair.score != 0 for pair in pairs)


def test_an_encoder_decoder_s_words_are_those_of_the_text(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    from attribution.test_scores import _model

    data = [{"text": "the heron loves rain", "label": "good"}, {"text": "warm rain", "label": "bad"}]
    run = make_run(tmp_path, [_model("bart", tokenizer, 0)], tokenizer, data, weights=(1.0,))
    (answer,) = hw.Index.build(run).query(["cold rain"], ["good"])
    for influence in (*answer.proponents, *answer.opponents):
        (pair,) = [pair for pair in influence.words if not pair.special]
        assert (pair.train, pair.query) == ("rain", "rain")
        assert sum(pair.score for pair in influence.words) == pytest.approx(influence.score, rel=1e-6)


def _by_places(
    tokenizer: PreTrainedTokenizerFast, row: str, query: str, whole: float = 0.0, seed: int = 0
) -> tuple[tuple[WordPair, ...], Contributions, list[Texts]]:
    """Word pairs of made-up contributions of every place of a row with every place of a query, in two checkpoints."""
    task = hw.Classification(max_length=128)
    examples = [Example(3, None, row, None, None, ""), Example(0, None, query, None, None, "")]
    texts = [Texts.of(e, c) for e, c in zip(examples, task.encode(tokenizer, examples, offsets=True), strict=True)]
    train, asked = (np.array(text.encoding.input_ids) for text in texts)
    at, to = (grid.ravel() for grid in np.meshgrid(np.arange(len(train)), np.arange(len(asked)), indexing="ij"))
    rows, none = np.full(len(at), 3), np.full(len(at), np.nan)
    generator = np.random.default_rng(seed)
    pieces = [Contributions(rows, train[at], asked[to], to, none, generator.normal(size=len(at)), at) for _ in range(2)]
    pieces.append(Contributions.whole(np.array([3]), np.array([whole])))
    found = Contributions.joined([*pieces, Contributions.whole(np.array([4]), np.array([9.0]))])  # of another row
    special = tokenizer.all_special_ids
    return word_pairs(found, texts[1], texts[0], TokenNames(tokenizer), special), found, texts


def test_every_word_meets_every_word_at_its_own_place(tokenizer: PreTrainedTokenizerFast) -> None:
    """Against the places themselves: each pair of words sums the tokens that lie in both."""
    row, query = "unbelievable heron , the heron", "the unbelievable rain"
    pairs, found, (ours, theirs) = _by_places(tokenizer, row, query, whole=0.25)
    assert ours.encoding.offsets and theirs.encoding.offsets

    def places(text: Texts, start: int, end: int) -> list[int]:
        offsets = text.encoding.offsets or []
        return [place for place, (a, b) in enumerate(offsets) if start <= a < b <= end]

    words = [pair for pair in pairs if pair.part == "words" and not pair.special]
    assert len(words) == 5 * 3 and all(pair.places == 1 and pair.cosine is pair.via is None for pair in words)
    for pair in words:
        (train,), (asked,) = pair.train_spans, pair.query_spans
        assert (row[train.start : train.end], query[asked.start : asked.end]) == (pair.train, pair.query)
        inside = np.isin(found.train_places, places(ours, train.start, train.end)) & (found.rows == 3)
        inside &= np.isin(found.places, places(theirs, asked.start, asked.end))
        assert pair.score == pytest.approx(found.values[inside].sum(), rel=1e-12)
    herons = {pair.train_spans[0].start for pair in words if (pair.train, pair.query) == ("heron", "rain")}
    assert herons == {13, 25}
    assert sum(pair.score for pair in pairs) == pytest.approx(found.values[found.rows == 3].sum(), rel=1e-12)
    assert [abs(pair.score) for pair in words] == sorted((abs(pair.score) for pair in words), reverse=True)


def test_special_tokens_and_the_text_as_a_whole_stand_beside_words(tokenizer: PreTrainedTokenizerFast) -> None:
    pairs, _, _ = _by_places(tokenizer, "the heron", "rain", whole=-7.0)
    special = [pair for pair in pairs if pair.special]
    assert {(pair.train, pair.query) for pair in special} == {
        ("[CLS]", "[CLS]"), ("[CLS]", "rain"), ("[CLS]", "[SEP]"), ("the", "[CLS]"), ("the", "[SEP]"),
        ("heron", "[CLS]"), ("heron", "[SEP]"), ("[SEP]", "[CLS]"), ("[SEP]", "rain"), ("[SEP]", "[SEP]"),
    }  # fmt: skip
    assert all(bool(pair.train_spans) == (pair.train[0] != "[") for pair in special)
    last = pairs[-1]
    assert (last.part, last.score, last.train, last.query, last.train_spans) == ("text", -7.0, "", "", ())
    assert last.to_dict()["part"] == "text" and pairs[0].to_dict()["part"] == "words"


def test_weak_pairs_of_many_words_are_folded_and_nothing_is_lost(tokenizer: PreTrainedTokenizerFast) -> None:
    row, query = " ".join(["the heron loves bread"] * 5), " ".join(["old rain"] * 6)
    pairs, found, _ = _by_places(tokenizer, row, query, whole=0.5)
    words = [pair for pair in pairs if pair.part == "words"]
    shown, special = ([pair for pair in words if pair.special is which] for which in (False, True))
    assert (len(shown), len(special)) == (KEPT, KEPT_SPECIAL)
    rest = {pair.special: pair.score for pair in pairs if pair.part == "rest"}
    assert rest.keys() == {False, True} and [pair.part for pair in pairs[-3:]] == ["rest", "rest", "text"]
    here = found.rows == 3
    assert sum(pair.score for pair in pairs) == pytest.approx(found.values[here].sum(), rel=1e-12)
    ends = [0, 21]  # [CLS], twenty words of one token each, [SEP]; the query has twelve words
    outside = np.isin(found.train_places, ends) | np.isin(found.places, [0, 13])
    expected = found.values[here & outside & (found.train_places >= 0)].sum()
    assert sum(pair.score for pair in pairs if pair.special) == pytest.approx(expected, rel=1e-9)
    sums: dict[tuple[int, int], float] = {}
    columns = (column[here & ~outside] for column in (found.train_places, found.places, found.values))
    for place, other, value in zip(*columns, strict=True):
        sums[place, other] = sums.get((place, other), 0.0) + value
    largest = sorted((abs(value) for place, value in sums.items() if place[0] >= 0), reverse=True)[:KEPT]
    assert [abs(pair.score) for pair in shown] == pytest.approx(largest, rel=1e-12)


def test_a_row_with_nothing_but_its_text_as_a_whole_has_no_words(tokenizer: PreTrainedTokenizerFast) -> None:
    _, _, (row, query) = _by_places(tokenizer, "the heron", "rain")
    found = Contributions.whole(np.array([3, 3]), np.array([0.5, 1e-9]))
    assert word_pairs(found, query, row, TokenNames(tokenizer), ()) == ()


def test_layer_methods_give_words_of_a_real_run(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """GPT-2's head sees the last token alone: each pair holds it, on both sides, or scores nothing."""
    rows = [{"text": text, "label": label} for text, label in (("warm bread", "good"), ("heron rain", "bad"))]
    run = make_run(tmp_path, [builders.tiny_model("gpt2", tokenizer)], tokenizer, rows, weights=(1.0,))
    index = hw.Index.build(run, method="tracin-last", dtype="float32")
    (answer,) = index.query(["the unbelievable"], ["good"], method="tracin-last")
    last = tokenizer("warm bread")["input_ids"][-1] in tokenizer.all_special_ids
    for influence in (*answer.proponents, *answer.opponents):
        words = [pair for pair in influence.words if pair.part == "words"]
        assert {(pair.train, pair.query) for pair in words if not pair.special} == (
            set() if last else {(influence.example.text.split()[-1], "unbelievable")}
        )
        assert sum(pair.score for pair in influence.words) == pytest.approx(influence.score, rel=1e-9)
