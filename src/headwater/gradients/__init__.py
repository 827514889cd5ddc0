"""What each example pushed: gradients of its loss at the word-embedding lookups, captured without a backward each."""

from headwater.gradients.batches import BATCH_TOKENS, Batch, batch_tokens, encoded_batches
from headwater.gradients.lookups import Lookup, capture_lookups, input_embeddings
from headwater.gradients.tokens import (
    PlaceGradients,
    TokenGradients,
    fold_places,
    place_gradients,
    token_gradients,
)
from headwater.models.buckets import length_buckets

__all__ = [
    "BATCH_TOKENS",
    "Batch",
    "Lookup",
    "PlaceGradients",
    "TokenGradients",
    "batch_tokens",
    "capture_lookups",
    "encoded_batches",
    "fold_places",
    "input_embeddings",
    "length_buckets",
    "place_gradients",
    "token_gradients",
]
