"""One backward pass a batch, nothing left behind, and an error where gradients would be silently wrong."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

import builders
from gradients.conftest import TARGETS, TEXTS
from gradients.layers.conftest import batch_of, double_losses, even_batch, losses_of, make_model, one_by_one
from headwater.errors import ModelError, UsageError
from headwater.gradients import Batch
from headwater.gradients.layers import (
    Projector,
    capture_layers,
    dot_products,
    layer_gradients,
    select_layers,
    squared_norms,
)
from oracle import relative_error

losses = losses_of("bert", double=False)


def _state(model: nn.Module) -> list[object]:
    hooks = [
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    ]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    return [hooks, wanted, [module.training for module in model.modules()], [p.grad for p in model.parameters()]]


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Half in training mode, one parameter frozen."""
    made = builders.tiny_model("bert", tokenizer)
    made.bert.encoder.layer[0].train()
    made.bert.embeddings.LayerNorm.weight.requires_grad_(False)
    return made


def rows_of(found) -> dict[int, Tensor]:
    """All layers of each row in one line."""
    return {
        int(row): torch.cat([values[at] for values in part.gradients.values()])
        for part in found
        for at, row in enumerate(part.rows)
    }


def test_a_finished_capture_leaves_the_model_as_it_was(model, tokenizer: PreTrainedTokenizerFast) -> None:
    before = _state(model)
    layers = select_layers(model, "all").layers
    assert len(list(layer_gradients(model, [batch_of(tokenizer)] * 2, losses, layers))) == 2
    assert _state(model) == before


@pytest.mark.parametrize("where", ["forward", "losses", "backward", "taking"])
def test_an_exception_anywhere_leaves_the_model_as_it_was(where: str, model, tokenizer) -> None:
    before = _state(model)

    class BrokenError(Exception):
        pass

    def explode(*_: object, **__: object) -> None:
        raise BrokenError

    handles = []
    if where == "forward":
        handles.append(model.bert.encoder.layer[1].register_forward_hook(explode))
    if where == "backward":
        handles.append(
            model.bert.encoder.layer[1].register_forward_hook(lambda *a: a[2].register_hook(explode) and None)
        )
    layers = select_layers(model, "all").layers
    with capture_layers(model, layers) as capture:
        assert _state(model) != before
        take = explode if where == "taking" else (lambda factors: None)
        with pytest.raises(BrokenError):
            capture.stream(batch_of(tokenizer), explode if where == "losses" else losses, take)
        for handle in handles:
            handle.remove()
        assert capture.factors(batch_of(tokenizer), losses).keys() == {layer.name for layer in layers}
    assert _state(model) == before


def test_a_generator_given_up_half_way_leaves_the_model_as_it_was(model, tokenizer: PreTrainedTokenizerFast) -> None:
    before = _state(model)
    found = layer_gradients(model, [batch_of(tokenizer)] * 3, losses, select_layers(model, "last").layers)
    next(found)
    assert _state(model) != before
    del found
    assert _state(model) == before


def test_dropout_is_off_while_gradients_are_captured(tokenizer: PreTrainedTokenizerFast) -> None:
    model = builders.tiny_model("bert", tokenizer, hidden_dropout_prob=0.5).train()
    layers = select_layers(model, "all").layers
    one, two = (rows_of(layer_gradients(model, [batch_of(tokenizer)], losses, layers)) for _ in range(2))
    assert all(torch.equal(one[row], two[row]) for row in one) and model.training


def test_a_model_used_by_others_meanwhile_answers_as_ever(model, tokenizer: PreTrainedTokenizerFast) -> None:
    with capture_layers(model, select_layers(model, "all").layers) as capture:
        capture.factors(batch_of(tokenizer), losses)
        assert not model(**batch_of(tokenizer).inputs).logits.requires_grad


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama-lm", "t5-lm", "textcnn"])
@pytest.mark.parametrize("projector", [None, Projector(dim=3, seed=5)])
def test_batch_size_order_padding_and_batch_mates_change_nothing(kind: str, projector, tokenizer) -> None:
    model, each = make_model(kind, tokenizer), losses_of(kind)
    layers = select_layers(model, "all", tied="joint").layers

    def made(*batches: Batch) -> dict[int, Tensor]:
        return rows_of(layer_gradients(model, batches, each, layers, projector))

    together = made(batch_of(tokenizer))
    turned = batch_of(tokenizer, TEXTS[::-1], TARGETS[::-1])
    turned = Batch(turned.rows.flip(0), turned.inputs, turned.targets)
    alone = [
        batch_of(tokenizer, [text], [target], first=row)
        for row, (text, target) in enumerate(zip(TEXTS, TARGETS, strict=True))
    ]
    pairs = [batch_of(tokenizer, TEXTS[at : at + 2], TARGETS[at : at + 2], first=at, width=17) for at in (0, 2)]
    for other in (made(turned), made(*alone), made(*pairs), made(batch_of(tokenizer, width=20))):
        assert other.keys() == together.keys()
        for row, values in together.items():
            assert relative_error(other[row], values) < 1e-6


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_time_first_modules_are_put_back(rows: int, tokenizer: PreTrainedTokenizerFast) -> None:
    """XLNet; with eight rows of eight tokens only the gradients themselves tell the sides."""
    model, batch = make_model("xlnet", tokenizer), even_batch(tokenizer, rows)
    layers = select_layers(model, "all").layers
    with capture_layers(model, layers) as capture:
        found = capture.factors(batch, double_losses)
    dense = one_by_one(model, batch, double_losses)
    for layer in layers:
        truth = torch.cat([dense[name].flatten(1) for name in layer.parameters], dim=1)
        assert relative_error(found[layer.name].dense(), truth) < 1e-6


class Small(nn.Module):
    """Lookup, two linear layers, head; subclasses change how they are used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.first, self.second = nn.Embedding(200, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def body(self, values: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(values)))

    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(torch.tanh(self.body(self.embedding(input_ids)).sum(1))))


class Flat(Small):
    def body(self, values: Tensor) -> Tensor:
        return super().body(values.flatten(0, 1)).reshape(values.shape)


class InPlace(Small):
    """Goes on in place after every layer, as trainable models may where autograd allows it."""

    def body(self, values: Tensor) -> Tensor:
        values += 1
        hidden = self.first(values)
        hidden.mul_(2)
        out = self.second(torch.tanh(hidden))
        out += 1
        return out


class ByName(Small):
    """Calls its layers by keyword."""

    def body(self, values: Tensor) -> Tensor:
        return self.second(input=torch.tanh(self.first(input=values)))


class Reshaped(Small):
    """Overwrites an output that is a view of something."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Conv1D(6, 6)

    def body(self, values: Tensor) -> Tensor:
        out = self.first(values)
        out.add_(1)
        return self.second(out)


@pytest.mark.parametrize("kind", [Small, Flat, InPlace, Reshaped, ByName])
def test_unusual_uses_are_exact(kind: type, tokenizer: PreTrainedTokenizerFast) -> None:
    model, batch = kind().double(), even_batch(tokenizer, 4)
    layers = select_layers(model, "all").layers
    with capture_layers(model, layers) as capture:
        found = capture.factors(batch, double_losses)
    dense = one_by_one(model, batch, double_losses)
    for layer in layers:
        truth = torch.cat([dense[name].flatten(1) for name in layer.parameters], dim=1)
        assert relative_error(found[layer.name].dense(), truth) < 1e-9


class Overwriting(Small):
    """Overwrites what a layer was given: autograd would refuse to train it."""

    def body(self, values: Tensor) -> Tensor:
        hidden = values + 1
        out = self.first(hidden)
        hidden.mul_(2)
        return self.second(out)


class Turned(Small):
    """Sees the examples of a batch in another order than they came."""

    def body(self, values: Tensor) -> Tensor:
        return super().body(values.flip(0)).flip(0)


class Mixing(Small):
    def body(self, values: Tensor) -> Tensor:
        return super().body(values - values.mean(0))


class Shared(Small):
    """Runs a layer on something that all examples share."""

    def body(self, values: Tensor) -> Tensor:
        return self.second(values) + self.first(torch.ones(1, 1, 6, dtype=values.dtype))


class Behind(Small):
    def body(self, values: Tensor) -> Tensor:
        return self.second(nn.functional.linear(values, self.first.weight, self.first.bias))


class Untracked(Small):
    def body(self, values: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.first(values)
        return self.second(hidden)


class Reentrant(Small):
    def body(self, values: Tensor) -> Tensor:
        return checkpoint(super().body, values, use_reentrant=True)


class Again(Small):
    def body(self, values: Tensor) -> Tensor:
        return checkpoint(super().body, values, use_reentrant=False)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Overwriting, "first: its input was overwritten"),
        (Turned, "does not hold the 4 examples"),
        (Mixing, "does not hold the 4 examples"),
        (Shared, "first: its output .* does not hold the 4 examples"),
        (Behind, "first did not run"),
        (Untracked, "first runs where nothing is differentiated"),
        (Reentrant, "first runs where nothing is differentiated"),
        (Again, "ran again in the backward pass"),
    ],
)
def test_what_would_be_silently_wrong_is_an_error_and_leaves_nothing(kind, message: str, tokenizer) -> None:
    model = kind().double()
    before = _state(model)
    with pytest.raises(ModelError, match=message):
        rows_of(layer_gradients(model, [even_batch(tokenizer, 4)], double_losses, select_layers(model, "all").layers))
    assert _state(model) == before


def test_what_examples_share_is_exact_one_example_at_a_time(tokenizer: PreTrainedTokenizerFast) -> None:
    model, batch = Shared().double(), even_batch(tokenizer, 1)
    layers = select_layers(model, "all").layers
    with capture_layers(model, layers) as capture:
        found = capture.factors(batch, double_losses)
    dense = one_by_one(model, batch, double_losses)
    assert relative_error(found["first"].dense()[:, :36], dense["first.weight"].flatten(1)) < 1e-9


def test_a_layer_that_the_loss_does_not_depend_on_pushes_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    class Aside(Small):
        def body(self, values: Tensor) -> Tensor:
            self.first(values)
            return self.second(values)

    model = Aside()
    layers = select_layers(model, "first,second").layers
    (found,) = layer_gradients(model, [even_batch(tokenizer, 4)], double_losses, layers, Projector(dim=2))
    assert found.gradients["first"].shape == (4, 4) and not found.gradients["first"].any()
    assert found.gradients["second"].all()
    with capture_layers(model, layers) as capture:
        factors = capture.factors(even_batch(tokenizer, 4), double_losses)
    assert not dot_products(factors["first"], factors["first"]).any() and not squared_norms(factors["first"]).any()
    assert not factors["first"].dense().any() and factors["first"].dense().shape == (4, 42)
    with pytest.raises(ModelError, match="does not depend on any of the layers"):
        list(layer_gradients(model, [even_batch(tokenizer, 4)], double_losses, layers[:1]))


def test_a_layer_given_twice_is_refused(model, tokenizer: PreTrainedTokenizerFast) -> None:
    layers = select_layers(model, "last").layers
    with pytest.raises(UsageError, match="classifier is in two of the layers"), capture_layers(model, layers * 2):
        pass


def test_a_mean_loss_and_an_unknown_precision_are_refused(model, tokenizer: PreTrainedTokenizerFast) -> None:
    layers = select_layers(model, "last").layers
    with pytest.raises(ModelError, match="one loss for each of 4 examples"):
        list(layer_gradients(model, [batch_of(tokenizer)], lambda *given: losses(*given).mean(), layers))
    with pytest.raises(UsageError, match="float32 or bfloat16"):
        list(layer_gradients(model, [batch_of(tokenizer)], losses, layers, precision="bf16"))


def test_a_gradient_that_is_not_finite_is_an_error_that_names_the_row(model, tokenizer) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("heron")] = torch.nan
    batch = batch_of(tokenizer, ["warm bread", "the heron"], [0, 1], first=10)
    with pytest.raises(ModelError, match="gradient of row 12 is not finite"):
        list(layer_gradients(model, [batch], losses, select_layers(model, "all").layers))


def test_layers_of_another_model_are_refused(model, tokenizer: PreTrainedTokenizerFast) -> None:
    other = builders.tiny_model("gpt2", tokenizer)
    with pytest.raises(ModelError, match="BertForSequenceClassification has no layer transformer"):
        list(layer_gradients(model, [batch_of(tokenizer)], losses, select_layers(other, "last,*h.0*").layers))


@pytest.mark.parametrize("kind", ["bert", "gemma"])
def test_bf16_autocast_stays_within_five_per_cent(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = builders.tiny_model(kind, tokenizer, scale=0.1)
    layers = select_layers(model, "all").layers
    exact, reduced = (
        torch.stack(
            list(rows_of(layer_gradients(model, [batch_of(tokenizer)], losses, layers, precision=precision)).values())
        )
        for precision in ("float32", "bfloat16")
    )
    assert reduced.dtype == torch.float32
    assert 0 < float((reduced - exact).norm() / exact.norm()) < 0.05


def test_gradients_flow_although_the_caller_has_switched_them_off(model, tokenizer: PreTrainedTokenizerFast) -> None:
    layers = select_layers(model, "all").layers
    free = rows_of(layer_gradients(model, [batch_of(tokenizer)], losses, layers))
    with torch.no_grad():
        held = rows_of(layer_gradients(model, [batch_of(tokenizer)], losses, layers))
    assert all(torch.equal(free[row], held[row]) for row in free)


def test_lora_adapters_and_their_base_are_plain_linear_layers(tokenizer: PreTrainedTokenizerFast) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = make_model("bert", tokenizer, double=False)
    settings = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", init_lora_weights=False)
    model = peft.get_peft_model(base, settings).double().eval()
    assert len(select_layers(model, "*lora_A*,*lora_B*").layers) == 4
    model.add_adapter("other", settings)
    selection = select_layers(model, "all")
    layers, names = selection.layers, {layer.name.removeprefix("base_model.model.") for layer in selection.layers}
    assert {"classifier.modules_to_save.default", "bert.encoder.layer.0.attention.self.query.base_layer"} <= names
    assert {row.refusal for row in selection.left_out} == {"peft keeps it aside: another module runs in its place"}
    assert any("original_module" in row.name for row in selection.left_out)
    assert sum("lora_A.other" in row.name for row in selection.left_out) == 2
    (last,) = select_layers(model, "last").layers
    assert last.name.endswith("classifier.modules_to_save.default")
    (embeddings,) = select_layers(model, "word-embeddings").layers
    assert embeddings.name.endswith("word_embeddings")
    with capture_layers(model, layers) as capture:
        found = capture.factors(batch_of(tokenizer), double_losses)
    dense = one_by_one(model, batch_of(tokenizer), double_losses)
    for layer in layers:
        truth = torch.cat([dense[name].flatten(1) for name in layer.parameters], dim=1)
        largest = float(truth.abs().max())
        assert largest < 1e-12 or relative_error(found[layer.name].dense(), truth) < 1e-6, layer.name
