"""Per-example gradients of any layer: captured as factors in one backward pass a batch, projected, compared."""

from headwater.gradients.layers.cancellation import Cancellation, CancellationSums
from headwater.gradients.layers.capture import Capture, capture_layers
from headwater.gradients.layers.factors import Dense, Layer, LayerFactors, Outer, Plain, Rows
from headwater.gradients.layers.ghost import dot_products, squared_norms
from headwater.gradients.layers.gradients import LayerGradients, layer_gradients
from headwater.gradients.layers.moments import Denominators, denominators, divide, second_moments
from headwater.gradients.layers.patterns import Selection, select_layers, transformer_blocks
from headwater.gradients.layers.positions import Positions, position_dots
from headwater.gradients.layers.projection import Projection, Projector, project
from headwater.gradients.layers.table import LayerRow, Tied, layer_table, layers_of

__all__ = [
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
    "Plain",
    "Positions",
    "Projection",
    "Projector",
    "Rows",
    "Selection",
    "Tied",
    "capture_layers",
    "denominators",
    "divide",
    "dot_products",
    "layer_gradients",
    "layer_table",
    "layers_of",
    "position_dots",
    "project",
    "second_moments",
    "select_layers",
    "squared_norms",
    "transformer_blocks",
]
