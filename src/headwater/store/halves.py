"""Float16 with a power of two a vector: vector = payload * 2**exponent, the largest component in [2**14, 2**15).

So float16 keeps out of its subnormal numbers, however small the vector is; scaling by a power of two is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int8
from numpy.typing import NDArray
from torch import Tensor

_TOP_EXPONENT = 15  # float16 holds up to 2**16: the largest component of a vector is scaled to [2**14, 2**15)


def encode_half(vectors: Float32[Tensor, "p d"]) -> tuple[Float16[Tensor, "p d"], Int8[np.ndarray, "p"]]:
    """Encode finite vectors: payload and exponents. A vector of zeros has exponent 0."""
    largest = vectors.abs().amax(dim=1) if len(vectors) else vectors.new_zeros(0)
    exponents = (torch.frexp(largest).exponent - _TOP_EXPONENT).clamp(-126, 127)
    exponents = torch.where(largest > 0, exponents, torch.zeros_like(exponents)).to(torch.int8)
    scales = torch.from_numpy(powers(-exponents.numpy().astype(np.int16)))  # int8 cannot hold -(-128)
    return (vectors * scales[:, None]).half(), exponents.numpy()


def powers(exponents: NDArray[np.signedinteger[Any]]) -> NDArray[np.float32]:
    """Return 2**exponent as float32, exactly."""
    return np.ldexp(np.float32(1), exponents.astype(np.int32))
