"""The plain token join: what anyone would write first, and the truth that all scores are held against.

    score(x, q) = sum_c weight_c  sum_{places i of x, j of q with the same token} < dl(x)/do_i , dl(q)/do_j >

where o_i is the embedding lookup's output at place i. `--mode truth` computes 16 rows by dense autograd on the
embedding matrix instead, without any of this.
"""

import numpy as np
import torch
from common import EMBEDDING, Arrays, job, load_arrays, load_model, load_weights
from torch.nn import functional
from transformers import BertForSequenceClassification  # noqa: F401  (slow to import: so that it counts as import)

BATCH = 32
TRUTH_ROWS = 16


def place_gradients(model: torch.nn.Module, arrays: Arrays, rows: slice) -> torch.Tensor:
    """Gradient of each row's loss at the lookup's output, [B, T, E]; zero where the token is [PAD]."""
    kept: list[torch.Tensor] = []

    def leaf(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    with model.get_submodule(EMBEDDING).register_forward_hook(leaf):
        logits = model(input_ids=arrays.ids[rows], attention_mask=arrays.mask[rows]).logits
    loss = functional.cross_entropy(logits, arrays.labels[rows], reduction="sum")
    (gradient,) = torch.autograd.grad(loss, kept[0])
    return gradient * (arrays.ids[rows] != 0)[..., None]


def batches(start: int, stop: int) -> list[slice]:
    return [slice(begin, min(begin + BATCH, stop)) for begin in range(start, stop, BATCH)]


def token_join(measured: "object", arrays: Arrays) -> np.ndarray:
    """Scores [Q, N]: every training batch meets a table of the queries' token gradients."""
    queries = len(arrays.ids) - arrays.rows
    scores = torch.zeros(queries, arrays.rows)
    with measured.phase("load"):
        model = load_model(arrays.checkpoints[0]).requires_grad_(False)
    asked = arrays.ids[arrays.rows :]
    tokens = asked.unique()
    tokens = tokens[tokens != 0]
    slot = torch.full((model.config.vocab_size,), -1)
    slot[tokens] = torch.arange(len(tokens))
    for checkpoint, weight in zip(arrays.checkpoints, arrays.weights, strict=True):
        with measured.phase("load"):
            load_weights(model, checkpoint)
        with measured.phase("query"):
            table = torch.zeros(queries, len(tokens) + 1, model.config.hidden_size)  # last slot: [PAD]
            for rows in batches(arrays.rows, len(arrays.ids)):
                gradient = place_gradients(model, arrays, rows)
                numbers = torch.arange(rows.start, rows.stop) - arrays.rows
                table.index_put_((numbers[:, None], slot[arrays.ids[rows]]), gradient, accumulate=True)
        for rows in batches(0, arrays.rows):
            with measured.phase("pass"):
                gradient = place_gradients(model, arrays, rows)
            with measured.phase("score"):
                row, place = (slot[arrays.ids[rows]] >= 0).nonzero(as_tuple=True)
                vectors = gradient[row, place]  # [p, E]
                shared = slot[arrays.ids[rows]][row, place]  # [p]
                dots = torch.einsum("qpe,pe->qp", table[:, shared], vectors)
                scores[:, rows].index_add_(1, row, weight * dots)
    return scores.numpy()


def dense_truth(arrays: Arrays) -> np.ndarray:
    """Scores [Q, 16] by dense autograd: the gradient of the whole embedding matrix, one example at a time."""
    model = load_model(arrays.checkpoints[0])
    matrix = model.get_submodule(EMBEDDING).weight
    scores = torch.zeros(len(arrays.ids) - arrays.rows, TRUTH_ROWS, dtype=torch.float64)

    def gradient(row: int) -> torch.Tensor:
        one = slice(row, row + 1)
        logits = model(input_ids=arrays.ids[one], attention_mask=arrays.mask[one]).logits
        return torch.autograd.grad(functional.cross_entropy(logits, arrays.labels[one]), matrix)[0].flatten()

    for checkpoint, weight in zip(arrays.checkpoints, arrays.weights, strict=True):
        load_weights(model, checkpoint)
        rows = torch.stack([gradient(row) for row in range(TRUTH_ROWS)])
        for query in range(len(scores)):
            scores[query] += weight * (rows @ gradient(arrays.rows + query))
    return scores.numpy()


def main() -> None:
    with job() as measured:
        arrays = load_arrays(measured.setting, measured.queries)
        scores = dense_truth(arrays) if measured.mode == "truth" else token_join(measured, arrays)
        measured.finish(scores, packages=["torch", "transformers"])


if __name__ == "__main__":
    main()
