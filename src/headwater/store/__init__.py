"""What an index stores on disk, over numbers given to it. It knows no texts and no models.

Token gradients as an inverted index (`Store`), arrays of a fixed shape a row (`RowStore`): segments, manifest, search.
"""

from headwater.store.build import build_store, built_with
from headwater.store.columns import Column
from headwater.store.manifest import RANGE_ROWS, Manifest, RowRange, StoredCheckpoint
from headwater.store.postings import Dtype, PostingDtype, Postings, postings_in_memory
from headwater.store.pruned import LooseBoundsError, QueryLists, Top, search_pruned
from headwater.store.rows import RowManifest, RowsOf, RowStore, build_rows
from headwater.store.search import for_each, join, restrict, row_vectors, threads_for
from headwater.store.store import Segment, Store, keep_mask
from headwater.store.touched import Touched

__all__ = [
    "RANGE_ROWS",
    "Column",
    "Dtype",
    "LooseBoundsError",
    "Manifest",
    "PostingDtype",
    "Postings",
    "QueryLists",
    "RowManifest",
    "RowRange",
    "RowStore",
    "RowsOf",
    "Segment",
    "Store",
    "StoredCheckpoint",
    "Top",
    "Touched",
    "build_rows",
    "build_store",
    "built_with",
    "for_each",
    "join",
    "keep_mask",
    "postings_in_memory",
    "restrict",
    "row_vectors",
    "search_pruned",
    "threads_for",
]
