"""An inverted index of token gradients on disk: segments, manifest, search. It knows no texts and no models."""

from headwater.store.build import build_store, built_with
from headwater.store.manifest import RANGE_ROWS, Manifest, RowRange, StoredCheckpoint
from headwater.store.postings import Dtype, Postings, postings_in_memory
from headwater.store.search import join, restrict, row_vectors, threads_for
from headwater.store.store import Segment, Store, keep_mask

__all__ = [
    "RANGE_ROWS",
    "Dtype",
    "Manifest",
    "Postings",
    "RowRange",
    "Segment",
    "Store",
    "StoredCheckpoint",
    "build_store",
    "built_with",
    "join",
    "keep_mask",
    "postings_in_memory",
    "restrict",
    "row_vectors",
    "threads_for",
]
