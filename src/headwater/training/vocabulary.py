"""A WordPiece vocabulary learned from a corpus: the same texts always give the same vocabulary.

`tokenizers` numbers the pieces inside words ("##a") in the order of a randomly seeded hash map, and ties between
merges follow those numbers, so two processes learn two vocabularies. Naming these pieces in advance, in sorted
order, as if they were special tokens, fixes the numbers; the tokenizer is then rebuilt with the true ones only.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Special tokens in the order of their ids, from 0."""


def learn_wordpiece(texts: Iterable[str], *, size: int = 25_000, max_length: int = 128) -> PreTrainedTokenizerFast:
    """Learn a lowercase WordPiece tokenizer of at most `size` pieces (more only if the alphabet alone is larger).

    A piece is merged only if it occurs twice or more. Texts are framed as BERT's: [CLS] text [SEP] (pair [SEP]).
    """
    texts = list(texts)
    bare = _tokenizer({token: number for number, token in enumerate(SPECIAL)})
    inner = [f"##{character}" for character in _inner_characters(bare, texts)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[*SPECIAL, *inner],
        limit_alphabet=1_000_000,
        show_progress=False,
    )
    bare.train_from_iterator(texts, trainer=trainer)
    tokenizer = _tokenizer(bare.get_vocab())
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    """Build BERT's pipeline (lowercase, punctuation apart) around a vocabulary."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def _inner_characters(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    """Return the characters that occur in a word after its first, sorted."""
    seen: set[str] = set()
    for text in texts:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)):
            seen.update(word[1:])
    return sorted(seen)
