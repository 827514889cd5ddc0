"""Every kind of layer, in every architecture: the factors are the dense per-example gradient of torch.func."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from gradients.layers.conftest import batch_of, even_batch, losses_of, make_model, one_by_one
from headwater.gradients.layers import Layer, capture_layers, layer_table, select_layers
from oracle import relative_error

CLASSIFIERS = ["bert", "roberta", "distilbert", "albert", "electra", "modernbert", "gpt2", "llama", "gemma"]
OTHERS = ["t5", "textcnn", "xlnet"]
LANGUAGE = ["gpt2-lm", "gpt2-lm-untied", "llama-lm", "llama-lm-bias", "gemma-lm", "gemma3-lm", "bert-lm"]
SEQUENCES = ["t5-lm", "bart-lm"]


def truth_of(layer: Layer, dense: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([dense[name].flatten(1) for name in layer.parameters], dim=1)


@pytest.mark.parametrize("kind", CLASSIFIERS + OTHERS + LANGUAGE + SEQUENCES)
def test_all_layers_equal_dense_autograd(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model, losses = make_model(kind, tokenizer), losses_of(kind)
    batch = batch_of(tokenizer) if kind != "xlnet" else even_batch(tokenizer, 4)  # padding counts in XLNet
    selection = select_layers(model, "all", tied="joint")
    with capture_layers(model, selection.layers) as capture:
        found = capture.factors(batch, losses)
    dense = one_by_one(model, batch, losses)
    largest = max(float(value.abs().max()) for value in dense.values())
    for layer in selection.layers:
        ours, truth = found[layer.name].dense(), truth_of(layer, dense)
        if not truth.any():
            assert not ours.any(), layer.name
        assert float((ours - truth).abs().max()) <= 1e-9 * largest or relative_error(ours, truth) < 1e-5, layer.name
    left = {row.name for row in selection.left_out}
    kept = {name for layer in selection.layers for name in layer.parameters}
    assert left == {row.name for row in layer_table(model) if not row.supported}
    missing = set(dense) - kept
    assert all(any(name.startswith(f"{row}.") for row in left) for name in missing), missing
