"""Which dimension of a module's output is the example, found by what only the right answer can satisfy.

Most modules see [n, t, d], XLNet's [t, n, d], a head behind a mask [n x t, d], and some see what all examples share.
In evaluation mode the gradient of sum_i c_i l_i at the rows of example i is c_i times that of sum_i l_i. A layout for
which this does not hold would give a wrong gradient; where it holds for none, examples mix, and that is an error.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_CLOSE = 1e-3  # relative to the largest row; powers of two scale exactly, so that only 16-bit underflow remains

Layout = Callable[[Tensor, int, int], Tensor]
"""([*lead, ...], number of lead dimensions, n) -> [n, t, ...]."""


def _rows_first(values: Tensor, lead: int, n: int) -> Tensor:
    return values.reshape(n, -1, *values.shape[lead:])


def _time_first(values: Tensor, lead: int, n: int) -> Tensor:
    return values.transpose(0, 1).reshape(n, -1, *values.shape[lead:])


def candidates(shape: torch.Size, lead: int, n: int) -> list[Layout]:
    """Return the layouts that a tensor of this shape could have, the likely one first.

    With one example there is only one: everything is that example's. [n x t, d] reshapes as [n, t, d] does.
    """
    if n == 1:
        return [_rows_first]
    found: list[Layout] = []
    if lead and (shape[0] == n or (lead == 1 and shape[0] and shape[0] % n == 0)):
        found.append(_rows_first)
    if lead >= 2 and shape[1] == n:
        found.append(_time_first)
    return found


def probe_weights(n: int) -> Float[Tensor, "n"]:
    """Powers of two, different for neighbours: what each example's loss is multiplied by."""
    return torch.tensor([2.0 ** ((3 * place) % 7) for place in range(n)])


def row_norms(gradient: Tensor, layout: Layout, lead: int, n: int) -> Float[Tensor, "n"]:
    """Norm of each example's output gradient under a layout."""
    norms: Tensor = torch.linalg.vector_norm(layout(gradient, lead, n).reshape(n, -1), dim=1, dtype=torch.float64)
    return norms


def holds(plain: Float[Tensor, "n"], scaled: Float[Tensor, "n"], weights: Float[Tensor, "n"]) -> bool:
    """Did every example's gradient grow by its own weight? Norms of the two backward passes, if they are numbers."""
    if not bool(torch.isfinite(plain).all()):
        return True  # an error of its own, which names the row
    expected = plain * weights.to(plain)
    return bool(((scaled - expected).abs() <= _CLOSE * expected.abs().max()).all())
