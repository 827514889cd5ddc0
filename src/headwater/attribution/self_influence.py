"""Self-influence: how much training on a row moves the row itself.

    S(x) = sum over checkpoints c of weight_c * |g_c(x)|^2            (TracIn, Pruthi et al. 2020, section 5)

g is the gradient on the word embeddings, over all tokens that the index keeps. Of several runs the mean.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from headwater.attribution.members import Member
from headwater.errors import StoreError
from headwater.progress import stage


def self_influence(members: tuple[Member, ...]) -> Float64[np.ndarray, " rows"]:
    """Self-influence of each row of the corpus, float64 [rows], at least 0. Raises StoreError: no token gradients."""
    stage("adding up how much each row moves itself")
    total = np.zeros(len(members[0].run.corpus))
    for member in members:
        store = member.tokens
        if store is None:
            raise StoreError(f"{member.folder}: holds no token gradients. Build them: headwater index RUN")
        squares = np.zeros(store.manifest.rows)
        for checkpoint in store.manifest.checkpoints:
            norms = store.squared_norms(checkpoint, special_tokens=True, max_words=None)
            squares += checkpoint.weight * norms
        total += (squares if store.living is None else squares[np.asarray(store.living)]) / len(members)
    return total
