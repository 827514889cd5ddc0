"""TRAK (traker 0.3.2) for quality.py: its own text classification task, the last checkpoint.

Without CUDA its fast projector (fast_jl) is not to be had; its BasicProjector is: one block of normal numbers. It keeps
the weights of all linear layers but, for memory's sake, no word embeddings; to a quarter as many numbers as there are
rows, as Headwater's TRAK does: its own 2,048 would be more than the rows. Positive: leaving the row out lowers the
log-odds of the query's label.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from common import Arrays, Job, job, load_arrays, load_model
from torch import Tensor
from trak import TRAKer
from trak.projectors import BasicProjector, ProjectionType
from transformers import BertForSequenceClassification

BATCH = 16  # of all parameters' dense gradients: 1.4 GB


class Logits(BertForSequenceClassification):
    """TRAK's task wants a tensor of logits."""

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask).logits


def attribute(measured: Job, arrays: Arrays) -> np.ndarray:
    with measured.phase("load"):
        model = load_model(arrays.checkpoints[-1])
        model.__class__ = Logits
    linear = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    # transformers looks into a two-dimensional mask, which vmap forbids: added to the attention's logits instead
    mask = ((1 - arrays.mask) * -1e9).float()[:, None, None, :]
    kinds = torch.zeros_like(arrays.ids)
    rows, dim = arrays.rows, max(arrays.rows // 4, 8)
    with measured.phase("featurize"):
        projector = BasicProjector(
            grad_dim=sum(sizes[name] for name in linear),
            proj_dim=dim,
            seed=0,
            proj_type=ProjectionType.normal,
            device="cpu",
            block_size=dim,
        )
        tracer = TRAKer(
            model=model,
            task="text_classification",
            train_set_size=rows,
            save_dir=str(measured.out / "trak"),
            device="cpu",
            projector=projector,
            use_half_precision=False,
            logging_level=logging.ERROR,
            grad_wrt=linear,
        )
        tracer.load_checkpoint(model.state_dict(), model_id=0)
        for some in torch.arange(rows).split(BATCH):
            batch = (arrays.ids[some], kinds[some], mask[some], arrays.labels[some])
            tracer.featurize(batch=batch, num_samples=len(some))
        tracer.finalize_features()
    with measured.phase("score"):
        # finalize_features freed the matrix; of a single block the projector does not make it again by itself
        projector.generate_sketch_matrix(projector.generator_states[0])
        asked = torch.arange(rows, len(arrays.ids))
        tracer.start_scoring_checkpoint("queries", model.state_dict(), model_id=0, num_targets=len(asked))
        for some in asked.split(BATCH):
            batch = (arrays.ids[some], kinds[some], mask[some], arrays.labels[some])
            tracer.score(batch=batch, num_samples=len(some))
        scores = tracer.finalize_scores("queries")
    measured.notes["weights"] = f"all linear layers to {dim} numbers, last checkpoint"
    return np.asarray(scores).T


def main() -> None:
    with job() as measured:
        arrays = load_arrays(measured.setting, measured.queries)
        scores = attribute(measured, arrays)
        measured.finish(scores, packages=["traker", "torch", "transformers"])


if __name__ == "__main__":
    main()
