"""Dot products from factors are those of dense gradients, whichever way is taken."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from gradients.layers.conftest import batch_of, losses_of, make_model, one_by_one
from headwater.errors import UsageError
from headwater.gradients.layers import capture_layers, dot_products, select_layers, squared_norms
from oracle import relative_error

QUERIES = ["the river loves bread .", "an old miller resents long winters"]


@pytest.mark.parametrize("tied", ["joint", "separate"])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama-lm", "bert-lm", "t5-lm", "textcnn", "albert", "llama-lm-bias"])
def test_ghost_equals_dense_and_both_equal_autograd(kind: str, tied: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model, losses = make_model(kind, tokenizer), losses_of(kind)
    layers = select_layers(model, "all", tied=tied).layers
    train, asked = batch_of(tokenizer), batch_of(tokenizer, QUERIES, [1, 0])
    with capture_layers(model, layers) as capture:
        one, other = capture.factors(train, losses), capture.factors(asked, losses)
    total = torch.zeros(4, 2).double()
    for layer in layers:
        left, right = one[layer.name], other[layer.name]
        truth = left.dense() @ right.dense().T
        ways = [
            dot_products(left, right, way=way, most_bytes=most)
            for way in ("ghost", "dense", None)
            for most in (1, 1 << 26)
        ]
        for found in ways:
            assert found.shape == (4, 2)
            assert float((found - truth).abs().max()) <= 1e-9 * max(1e-6, float(truth.abs().max())), layer.name
        for most in (1, 1 << 26):
            norms = squared_norms(left, most_bytes=most)
            assert relative_error(norms, left.dense().pow(2).sum(dim=1)) < 1e-9 or not norms.any()
        total += ways[0]
    if tied == "joint":
        covered = {name for layer in layers for name in layer.parameters}
        dense = [one_by_one(model, batch, losses) for batch in (train, asked)]
        flat = [torch.cat([values[name].flatten(1) for name in sorted(covered)], dim=1) for values in dense]
        assert relative_error(total, flat[0] @ flat[1].T) < 1e-6


def test_layers_of_two_names_and_unknown_ways_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("bert", tokenizer)
    layers = select_layers(model, "*.query").layers
    with capture_layers(model, layers) as capture:
        found = list(capture.factors(batch_of(tokenizer), losses_of("bert")).values())
    with pytest.raises(UsageError, match="no dot product"):
        dot_products(found[0], found[1])
    with pytest.raises(UsageError, match="'ghost', 'dense' or None"):
        dot_products(found[0], found[0], way="fast")


def test_captum_agrees_on_the_last_layer(tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    """TracInCPFast, an outside oracle: its influence of one checkpoint is our dot product, but for the bias."""
    captum = pytest.importorskip("captum.influence")
    model, losses = make_model("bert", tokenizer, double=False), losses_of("bert", double=False)
    train, asked = batch_of(tokenizer), batch_of(tokenizer, QUERIES, [1, 0])

    class Tuples(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
            return self.inner(input_ids=ids, attention_mask=mask, token_type_ids=types).logits

    def tuples(batch) -> tuple[torch.Tensor, ...]:
        inputs = batch.inputs
        return inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"], batch.targets

    whole = Tuples()
    torch.save(whole.state_dict(), tmp_path / "one.pt")

    def load(target: torch.nn.Module, path: str) -> float:
        target.load_state_dict(torch.load(path, weights_only=True))
        return 1.0

    oracle = captum.TracInCPFast(
        model=whole, final_fc_layer=whole.inner.classifier,
        train_dataset=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tuples(train)), batch_size=2),
        checkpoints=[str(tmp_path / "one.pt")], checkpoints_load_func=load,
        loss_fn=torch.nn.CrossEntropyLoss(reduction="sum"), batch_size=2,
    )  # fmt: skip
    truth = oracle.influence(tuples(asked), k=None).detach()  # [queries, rows]
    layers = select_layers(model, "last").layers
    with capture_layers(model, layers) as capture:
        one, other = capture.factors(train, losses), capture.factors(asked, losses)
    left, right = other["classifier"], one["classifier"]
    bias = left.dense()[:, -2:] @ right.dense()[:, -2:].T  # which Captum leaves out
    assert relative_error(dot_products(left, right) - bias, truth) < 1e-4
