"""Per-example gradients of any layer: captured as factors in one backward pass a batch, projected, compared."""

from headwater.gradients.layers.adam import AdamStep, adam_steps
from headwater.gradients.layers.cancellation import Cancellation, CancellationSums
from headwater.gradients.layers.capture import Capture, capture_layers
from headwater.gradients.layers.factors import Dense, Layer, LayerFactors, Outer, Plain, Rows
from headwater.gradients.layers.ghost import dot_products, squared_norms
from headwater.gradients.layers.gradients import LayerGradients, Update, layer_gradients
from headwater.gradients.layers.moments import Denominators, denominators, divide
from headwater.gradients.layers.optimizer import AdamState, adam_states, second_moments
from headwater.gradients.layers.patterns import Selection, select_layers, transformer_blocks
from headwater.gradients.layers.places import PlacePart, place_vectors
from headwater.gradients.layers.positions import Positions, position_dots
from headwater.gradients.layers.projection import Projection, Projector, project
from headwater.gradients.layers.table import LayerRow, Tied, layer_table, layers_of

__all__ = [
    "AdamState",
    "AdamStep",
    "Cancellation",
    "CancellationSums",
    "Capture",
    "Denominators",
    "Dense",
    "Layer",
    "LayerFactors",
    "LayerGradients",
    "LayerRow",
    "Outer",
    "PlacePart",
    "Plain",
    "Positions",
    "Projection",
    "Projector",
    "Rows",
    "Selection",
    "Tied",
    "Update",
    "adam_states",
    "adam_steps",
    "capture_layers",
    "denominators",
    "divide",
    "dot_products",
    "layer_gradients",
    "layer_table",
    "layers_of",
    "place_vectors",
    "position_dots",
    "project",
    "second_moments",
    "select_layers",
    "squared_norms",
    "transformer_blocks",
]
