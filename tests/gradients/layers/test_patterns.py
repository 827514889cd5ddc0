"""A pattern means the same in every model; what it cannot mean is an error that lists what there is."""

import pytest
from transformers import PreTrainedTokenizerFast

import builders
from gradients.layers.conftest import make_model
from headwater.errors import ModelError, UsageError
from headwater.gradients.layers import layer_table, select_layers, transformer_blocks


def names(model, pattern: str, **options) -> list[str]:
    return [layer.name for layer in select_layers(model, pattern, **options).layers]


@pytest.mark.parametrize(
    ("kind", "words", "last", "before"),
    [
        ("bert", "bert.embeddings.word_embeddings", "classifier", "bert.pooler.dense"),
        ("gpt2", "transformer.wte", "score", "transformer.h.1.mlp.c_proj"),
        ("llama-lm", "model.embed_tokens", "lm_head", "model.layers.1.mlp.down_proj"),
        ("t5-lm", "shared", "lm_head", "decoder.block.1.layer.2.DenseReluDense.wo"),
        ("textcnn", "embedding", "classifier", "convolution3"),
        ("distilbert", "distilbert.embeddings.word_embeddings", "classifier", "pre_classifier"),
    ],
)
def test_first_and_last_layers_are_found(kind, words, last, before, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(kind, tokenizer)
    assert names(model, "word-embeddings") == [words]
    assert names(model, "last") == [last]
    assert names(model, "second-to-last") == [before]
    assert names(model, "last, word-embeddings,last") == [words, last]


def test_modules_that_share_a_weight_are_one_layer(tokenizer: PreTrainedTokenizerFast) -> None:
    (layer,) = select_layers(make_model("t5-lm", tokenizer), "word-embeddings").layers
    assert layer.modules == ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
    assert names(make_model("t5-lm", tokenizer), "encoder.embed_tokens") == ["shared"]


def test_quarters_part_the_blocks_by_depth(tokenizer: PreTrainedTokenizerFast) -> None:
    model = builders.tiny_model("bert", tokenizer, num_hidden_layers=6)
    assert transformer_blocks(model) == [f"bert.encoder.layer.{block}" for block in range(6)]
    quarters = [names(model, f"quarter:{which}") for which in (1, 2, 3, 4)]
    blocks = [sorted({name.split(".")[3] for name in quarter}) for quarter in quarters]
    assert blocks == [["0"], ["1", "2"], ["3"], ["4", "5"]]
    assert sorted(name for quarter in quarters for name in quarter) == sorted(names(model, "bert.encoder"))


def test_an_encoders_blocks_come_before_a_decoders(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("t5-lm", tokenizer)
    assert transformer_blocks(model) == ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"]
    assert all(name.startswith("decoder.block.1.") for name in names(model, "quarter:4"))


def test_globs_blocks_and_exclusions(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("bert", tokenizer)
    assert names(model, "*.query") == [f"bert.encoder.layer.{block}.attention.self.query" for block in (0, 1)]
    assert len(names(model, "bert.encoder.layer.0")) == 8
    assert names(model, "bert.encoder.layer.0,!*.dense,!*.LayerNorm") == [
        f"bert.encoder.layer.0.attention.self.{name}" for name in ("query", "key", "value")
    ]
    assert names(model, "all,!bert") == ["classifier"]


@pytest.mark.parametrize("pattern", ["classifer", "bert.encoder.layer.9", "*.gate_proj", "quarter", "!nothing,last"])
def test_a_pattern_that_matches_nothing_lists_what_there_is(pattern: str, tokenizer) -> None:
    model = make_model("bert", tokenizer)
    with pytest.raises(UsageError) as error:
        select_layers(model, pattern)
    message = str(error.value)
    assert "no layer is named" in message and "word-embeddings, last" in message
    assert "bert.embeddings.word_embeddings" in message and "bert.encoder.layer.*.attention.self.query" in message
    assert ("Did you mean 'classifier'" in message) == (pattern == "classifer")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("", "no layers are named"), ("!last", "no layers are named"), ("last,!classifier", "leaves no layer")],
)
def test_a_selection_of_nothing_is_an_error(pattern: str, message: str, tokenizer) -> None:
    with pytest.raises(UsageError, match=message):
        select_layers(make_model("bert", tokenizer), pattern)


@pytest.mark.parametrize("pattern", ["quarter:0", "quarter:5", "quarter:one", "quarter:"])
def test_a_fifth_quarter_is_an_error(pattern: str, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UsageError, match="quarter:1, quarter:2, quarter:3 or quarter:4"):
        select_layers(make_model("bert", tokenizer), pattern)


@pytest.mark.parametrize(("kind", "blocks"), [("textcnn", 0), ("albert", 1), ("bert", 2)])
def test_a_model_of_few_blocks_has_no_quarters(kind: str, blocks: int, tokenizer) -> None:
    with pytest.raises(ModelError, match=rf"has {blocks} block\(s\).*too few"):
        select_layers(make_model(kind, tokenizer), "quarter:1")


def test_adapters_are_what_lora_trained(tokenizer: PreTrainedTokenizerFast) -> None:
    """As the optimizer was given it; an adapter that is not active does not run and is none of it."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = make_model("bert", tokenizer, double=False)
    settings = peft.LoraConfig(r=2, target_modules=["query", "word_embeddings"], task_type="SEQ_CLS")
    model = peft.get_peft_model(base, settings)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.add_adapter("other", settings)
    selection = select_layers(model, "adapters")
    held = {name for layer in selection.layers for name in layer.parameters}
    assert len(selection.layers) == 5 and held < trainable
    assert {name.split(".")[-2] for name in trainable - held} == {"lora_embedding_A", "lora_embedding_B"}
    assert {row.name.split(".")[-1] for row in selection.left_out} == {"lora_embedding_A", "lora_embedding_B"}
    assert len(select_layers(model, "adapters,!*modules_to_save*").layers) == 4
    with pytest.raises(ModelError, match=r"BertForSequenceClassification has no adapters .* not trained with LoRA"):
        select_layers(make_model("bert", tokenizer), "adapters")


def test_the_side_of_tied_weights_that_was_not_chosen_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("llama-lm", tokenizer)
    for pattern, tied in (("lm_head", "input"), ("model.embed_tokens", "output"), ("word-embeddings", "output")):
        with pytest.raises(UsageError, match="tied"):
            select_layers(model, pattern, tied=tied)
    with pytest.raises(UsageError, match="separate, joint, input, output"):
        select_layers(model, "all", tied="both")
    assert names(model, "lm_head", tied="joint") == names(model, "word-embeddings", tied="joint")


def test_the_table_counts_every_parameter_once(tokenizer: PreTrainedTokenizerFast) -> None:
    for kind in ("bert", "bert-lm", "xlnet", "bart-lm", "textcnn", "llama-lm"):
        model = make_model(kind, tokenizer)
        rows = layer_table(model)
        sizes = sum(row.size for row in rows)
        repeated = sum(row.size for row in rows if row.shares)
        counted = sum(parameter.numel() for parameter in model.parameters())
        head_bias = sum(row.shape[0] for row in rows if row.shares and row.bias)
        assert sizes - repeated + head_bias == counted, kind
    row = next(row for row in layer_table(make_model("gpt2", tokenizer)) if row.name == "transformer.h.0.attn.c_attn")
    assert (row.kind, row.shape, row.bias, row.size, row.supported) == ("Conv1D", (16, 48), True, 16 * 48 + 48, True)
