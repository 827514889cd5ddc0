"""Adam's second moments on the queries' side of token gradients: g_w / (sqrt(v_w) + eps), row by row of the matrix.

TracIn's step is Adam's then: training on x moves E by lr g(x) / sqrt(v), and <g(q), g(x) / sqrt(v)> is the same number
whichever side is divided. So a plain index serves, and only what the queries pushed is divided.
"""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel

from headwater.attribution.layer_sets import moments_of
from headwater.errors import RunError
from headwater.gradients import PlaceGradients, input_embeddings
from headwater.gradients.layers.moments import denominator
from headwater.runs import Checkpoint, Run


def divided_places(run: Run, checkpoint: Checkpoint, model: PreTrainedModel, places: PlaceGradients) -> PlaceGradients:
    """Divide place gradients by sqrt(v) of their tokens' rows. Raises RunError where the matrix has no moments."""
    matrix = input_embeddings(model)[0].weight
    moments = moments_of(run, checkpoint)
    names = [name for name, value in model.named_parameters(remove_duplicate=False) if value is matrix]
    known = [name for name in names if name in moments]
    if not known:
        raise RunError(
            f"{checkpoint.path}: the optimizer keeps no second moments of the word embeddings ({names[0]}). Were they "
            "frozen in training?"
        )
    values = moments[known[0]]
    if values.shape != matrix.shape:
        raise RunError(
            f"{checkpoint.path}: the optimizer's moments of {known[0]} have shape {tuple(values.shape)}, the matrix "
            f"{tuple(matrix.shape)}."
        )
    rows = denominator(values)[places.tokens.cpu()].to(places.gradients)
    return replace(places, gradients=places.gradients / rows)
