"""The hooks: they find every lookup, measure what it multiplies by, refuse what they cannot know, leave nothing."""

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import builders
from gradients.conftest import BagOfWords, batch_of, dense, losses
from headwater.errors import ModelError
from headwater.gradients import capture_lookups, input_embeddings, place_gradients, token_gradients


def _state(model: nn.Module) -> list[object]:
    """Everything that hooks might leave behind."""
    hooks = [
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    ]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    return [hooks, wanted, [module.training for module in model.modules()], [p.grad for p in model.parameters()]]


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A model in a state of its own: half in training mode, one parameter frozen."""
    made = builders.tiny_model("bert", tokenizer)
    made.bert.encoder.layer[0].train()
    made.bert.embeddings.LayerNorm.weight.requires_grad_(False)
    return made


def test_a_finished_capture_leaves_the_model_as_it_was(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    before = _state(model)
    assert len(list(token_gradients(model, [batch_of(tokenizer)] * 2, losses))) == 2
    assert _state(model) == before


def test_an_exception_in_the_model_leaves_it_as_it_was(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    before = _state(model)

    class BrokenError(Exception):
        pass

    def explode(*_: object) -> None:
        raise BrokenError

    handle = model.bert.encoder.layer[1].register_forward_hook(explode)
    with pytest.raises(BrokenError):
        list(token_gradients(model, [batch_of(tokenizer)], losses))
    handle.remove()
    assert _state(model) == before


def test_a_generator_given_up_half_way_leaves_the_model_as_it_was(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    before = _state(model)
    found = place_gradients(model, [batch_of(tokenizer)] * 3, losses)
    next(found)
    assert _state(model) != before
    del found
    assert _state(model) == before


def test_dropout_is_off_while_gradients_are_captured(tokenizer: PreTrainedTokenizerFast) -> None:
    model = builders.tiny_model("bert", tokenizer, hidden_dropout_prob=0.5).train()
    one, two = (dense(token_gradients(model, [batch_of(tokenizer)], losses), model, 4) for _ in range(2))
    assert torch.equal(one, two) and model.training


def test_gradients_flow_although_the_caller_has_switched_them_off(tokenizer: PreTrainedTokenizerFast) -> None:
    model = builders.tiny_model("bert", tokenizer)
    free = dense(token_gradients(model, [batch_of(tokenizer)], losses), model, 4)
    with torch.no_grad():
        held = dense(token_gradients(model, [batch_of(tokenizer)], losses), model, 4)
    assert torch.equal(free, held) and free.any()


def test_a_model_that_looks_up_behind_our_back_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    class Hidden(BagOfWords):
        def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> BagOfWords:
            vectors = nn.functional.embedding(input_ids, self.embedding.weight)
            self.logits = self.head(vectors.sum(1))
            return self

    with pytest.raises(ModelError, match="looked no word embedding up"):
        list(token_gradients(Hidden(nn.Embedding(200, 8)), [batch_of(tokenizer)], losses))


def test_a_loss_that_does_not_depend_on_the_lookup_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    class Deaf(BagOfWords):
        def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> BagOfWords:
            self.logits = self.head(self.embedding(input_ids).detach().sum(1))
            return self

    with pytest.raises(ModelError, match="does not depend on the word embeddings"):
        list(token_gradients(Deaf(nn.Embedding(200, 8)), [batch_of(tokenizer)], losses))


def test_a_gradient_that_is_not_finite_is_an_error_that_names_the_row(tokenizer: PreTrainedTokenizerFast) -> None:
    model = BagOfWords(nn.Embedding(200, 8))
    with torch.no_grad():
        model.embedding.weight[tokenizer.convert_tokens_to_ids("heron")] = torch.nan
    with pytest.raises(ModelError, match="gradient of row 2 is not finite"):
        list(token_gradients(model, [batch_of(tokenizer, ["warm bread", "the heron"], [0, 1])], losses))


@pytest.mark.parametrize("options", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_embeddings_whose_gradients_depend_on_the_batch_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="depend on the whole batch"):
        input_embeddings(BagOfWords(nn.Embedding(200, 8, **options)))


def test_a_model_without_word_embeddings_is_refused() -> None:
    class Refusing(nn.Module):
        def get_input_embeddings(self) -> nn.Module:
            raise NotImplementedError

    linear = BagOfWords(nn.Embedding(5, 2))
    linear.embedding = nn.Linear(2, 2)
    for model in (nn.Linear(2, 2), Refusing(), linear):
        with pytest.raises(ModelError, match="input-embedding matrix"):
            input_embeddings(model)


class _Weighted(nn.Embedding):
    """Multiplies each token's vector by a number of its own: not a scale."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * (1 + ids[..., None] % 3)


class _Shifted(nn.Embedding):
    """Adds positions inside the lookup."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) + torch.arange(ids.shape[1])[:, None]


class _Flat(nn.Embedding):
    """Returns the places of all rows in one line."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).flatten(0, 1)


@pytest.mark.parametrize("kind", [_Weighted, _Shifted, _Flat])
def test_a_lookup_that_does_more_than_scale_is_refused(kind: type, tokenizer: PreTrainedTokenizerFast) -> None:
    model = BagOfWords(kind(len(tokenizer), 8))
    with pytest.raises(ModelError, match=r"more than look up and scale|unknown shape"):
        list(token_gradients(model, [batch_of(tokenizer)], losses))


@pytest.mark.parametrize("scale", [7.5, 0.01, -2.0])
def test_a_scale_inside_the_lookup_is_measured_whatever_its_attribute_is_called(
    scale: float, tokenizer: PreTrainedTokenizerFast
) -> None:
    class Louder(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids) * scale

    model = BagOfWords(Louder(len(tokenizer), 8))
    batch = batch_of(tokenizer)
    ours = dense(token_gradients(model, [batch], losses), model, 4)
    truth = [
        torch.autograd.grad(
            losses(
                model, {name: value[row : row + 1] for name, value in batch.inputs.items()}, batch.targets[row, None]
            ),
            model.embedding.weight,
        )[0]
        for row in range(4)
    ]
    torch.testing.assert_close(ours, torch.stack(truth), rtol=1e-5, atol=1e-8)


def test_every_module_that_holds_the_matrix_is_found_once(tokenizer: PreTrainedTokenizerFast) -> None:
    model = builders.tiny_model("bert", tokenizer)
    extra = nn.Embedding(*model.get_input_embeddings().weight.shape)
    extra.weight = model.get_input_embeddings().weight
    model.again, model.other = extra, nn.Embedding(5, 16)
    assert input_embeddings(model) == [model.get_input_embeddings(), extra]
    with capture_lookups(model) as lookups:
        model(**batch_of(tokenizer).inputs)
        assert len(lookups) == 1  # the extra one holds the matrix, but this model never asks it
