"""An independent oracle: the gradient of each example's loss on the dense embedding matrix, one backward an example.

It shares no code with what it checks: it tokenizes, runs the model and differentiates by itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast


def dense_gradients(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str | tuple[str, str]],
    targets: Sequence[int],
    *,
    max_length: int = 32,
    double: bool = False,
) -> Tensor:
    """d loss / d E for each text [texts, vocabulary, width]; every use of the matrix counts, encoder and decoder."""
    model = model.double() if double else model
    model.eval().requires_grad_(False)
    matrix = model.get_input_embeddings().weight
    matrix.requires_grad_(True)
    found = []
    for text, target in zip(texts, targets, strict=True):
        first, second = (text, None) if isinstance(text, str) else text
        encoded = tokenizer(first, second, truncation=True, max_length=max_length, return_tensors="pt")
        inputs = {name: value for name, value in encoded.items() if name != "overflow_to_sample_mapping"}
        logits = model(**inputs).logits
        loss = cross_entropy(logits, torch.tensor([target]))
        found.append(torch.autograd.grad(loss, matrix)[0])
    return torch.stack(found)


def relative_error(ours: Tensor, truth: Tensor) -> float:
    """max |a - b| / max |b|."""
    return float((ours - truth).abs().max() / truth.abs().max())
