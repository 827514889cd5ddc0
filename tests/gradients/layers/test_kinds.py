"""Every kind of layer, in every architecture: the factors are the dense per-example gradient of torch.func."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm
from transformers.pytorch_utils import Conv1D

from gradients.layers.conftest import batch_of, double_losses, even_batch, losses_of, make_model, one_by_one
from headwater.errors import ModelError, UsageError
from headwater.gradients.layers import Layer, capture_layers, layer_table, select_layers
from oracle import relative_error

CLASSIFIERS = [
    "bert",
    "roberta",
    "distilbert",
    "albert",
    "electra",
    "modernbert",
    "deberta-v2",
    "gpt2",
    "llama",
    "gemma",
]
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


def test_the_two_sides_of_tied_weights_are_those_of_an_untied_copy(tokenizer: PreTrainedTokenizerFast) -> None:
    """And joined they are their sum, cross terms included."""
    model, losses, batch = make_model("llama-lm", tokenizer), losses_of("llama-lm"), batch_of(tokenizer)
    matrix = model.get_input_embeddings().weight
    assert model.lm_head.weight is matrix
    found = {}
    for tied in ("separate", "joint", "input", "output"):
        layers = select_layers(model, "all", tied=tied).layers
        with capture_layers(model, layers) as capture:
            made = capture.factors(batch, losses)
        found[tied] = {layer.name: made[layer.name].dense() for layer in layers if layer.shape == matrix.shape}
    model.lm_head.weight = torch.nn.Parameter(matrix.detach().clone())
    dense = one_by_one(model, batch, losses)
    side = {name: dense[f"{name}.weight"].flatten(1) for name in ("model.embed_tokens", "lm_head")}
    assert found["separate"].keys() == side.keys()
    for name, truth in side.items():
        assert relative_error(found["separate"][name], truth) < 1e-9
    assert relative_error(found["input"].pop("model.embed_tokens"), side["model.embed_tokens"]) < 1e-9
    assert relative_error(found["output"].pop("lm_head"), side["lm_head"]) < 1e-9
    assert not found["input"] and not found["output"]
    assert relative_error(found["joint"]["model.embed_tokens"], sum(side.values())) < 1e-9


class Around(nn.Module):
    """A module under test between a lookup and a head."""

    def __init__(self, module: nn.Module, width: int = 6, out: int = 6) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding, self.module, self.head = nn.Embedding(200, width), module, nn.Linear(out, 2)

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        values = self.module(self.embedding(input_ids))
        return SimpleNamespace(logits=self.head(torch.tanh(values)).sum(dim=1))


class Convolved(nn.Module):
    """A convolution over [n, t, d]."""

    def __init__(self, *given: int, **named: object) -> None:
        super().__init__()
        self.inner = nn.Conv1d(*given, **named)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.inner(values.transpose(1, 2)).transpose(1, 2)


class OnePlusNorm(nn.LayerNorm):
    """As Nemotron's LayerNorm1P."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(values, self.normalized_shape, self.weight + 1, self.bias, self.eps)


class CohereLayerNorm(nn.Module):
    """Centred, without a bias, under a name that T5 gives to one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.rand(6)), 1e-5

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        centred = values - values.mean(-1, keepdim=True)
        return self.weight * centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


MODULES = {
    "linear": lambda: nn.Linear(6, 6),
    "linear without bias": lambda: nn.Linear(6, 6, bias=False),
    "conv1d of gpt-2": lambda: Conv1D(6, 6),
    "convolution": lambda: Convolved(6, 6, 3),
    "convolution without bias": lambda: Convolved(6, 6, 3, bias=False),
    "convolution, strided and padded": lambda: Convolved(6, 6, 3, stride=2, padding=2, dilation=2),
    "convolution, same": lambda: Convolved(6, 6, 4, padding="same"),
    "layer norm": lambda: nn.LayerNorm(6),
    "layer norm without bias": lambda: nn.LayerNorm(6, bias=False),
    "layer norm, 1 + w": lambda: OnePlusNorm(6),
    "layer norm of cohere": CohereLayerNorm,
    "rms norm": lambda: nn.RMSNorm(6),
    "rms norm of llama": lambda: LlamaRMSNorm(6, eps=1e-3),
    "rms norm of gemma": lambda: GemmaRMSNorm(6, eps=1e-3),
    "rms norm of t5": lambda: T5LayerNorm(6, eps=1e-3),
    "used twice": lambda: nn.Sequential(*[nn.Linear(6, 6)] * 2),
}


@pytest.mark.parametrize("name", MODULES)
def test_each_kind_equals_dense_autograd_with_and_without_bias(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = Around(MODULES[name]()).double()
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    batch = even_batch(tokenizer, 4)
    layers = select_layers(model, "module*").layers
    with capture_layers(model, layers) as capture:
        found = capture.factors(batch, double_losses)
    dense = one_by_one(model, batch, double_losses)
    assert sum(layer.size for layer in layers) == sum(parameter.numel() for parameter in model.module.parameters())
    for layer in layers:
        assert relative_error(found[layer.name].dense(), truth_of(layer, dense)) < 1e-6


class Wrong(nn.Linear):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return super().forward(values) * 2


class WrongRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(6)), 1e-6

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.weight * values / values.abs().sum(-1, keepdim=True)


@pytest.mark.parametrize("kind", [lambda: Wrong(6, 6), WrongRMSNorm])
def test_a_module_that_computes_something_else_is_refused_by_name(kind, tokenizer: PreTrainedTokenizerFast) -> None:
    model = Around(kind())
    layers = select_layers(model, "module").layers
    with capture_layers(model, layers) as capture, pytest.raises(ModelError, match=r"^module: .*unknown"):
        capture.factors(even_batch(tokenizer, 4), double_losses)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (lambda: Convolved(6, 6, 3, groups=2), "2 groups of channels"),
        (lambda: Convolved(6, 6, 3, padding_mode="circular"), "padding_mode"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), "computed from other parameters"),
        (lambda: nn.BatchNorm1d(6), "no kind that we know"),
        (lambda: nn.GRU(6, 6), "no kind that we know"),
        (lambda: nn.LayerNorm([4, 6]), "several dimensions"),
        (lambda: nn.Embedding(6, 6, max_norm=1.0), "depend on the whole batch"),
    ],
)
def test_what_cannot_be_captured_says_why(module, reason: str) -> None:
    model = Around(module())
    refused = [row for row in layer_table(model) if not row.supported]
    assert refused and all(row.name.startswith("module") for row in refused)
    assert any(reason in row.refusal for row in refused)
    with pytest.raises(UsageError, match=reason):
        select_layers(model, refused[0].name)
    selection = select_layers(model, "all")
    assert [layer.name for layer in selection.layers] == ["embedding", "head"]
    assert selection.left_out == tuple(refused) and reason in selection.note()
