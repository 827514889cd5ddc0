"""Short numbers with a power of two a vector: vector = payload * 2**exponent.

float16: the largest component of the payload lies in [2**14, 2**15). So float16 keeps out of its subnormal numbers,
however small the vector is; scaling by a power of two is exact.
int8: the largest component lies in [64, 127], so each is kept to 1/127 of the largest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int8
from numpy.typing import NDArray
from torch import Tensor

_TOP_EXPONENT = 15  # float16 holds up to 2**16: the largest component of a vector is scaled to [2**14, 2**15)
_TOP_INT8 = 7  # to [2**6, 2**7), and once more by a half where it would be rounded to 2**7


def encode_half(vectors: Float32[Tensor, "p d"]) -> tuple[Float16[Tensor, "p d"], Int8[np.ndarray, "p"]]:
    """Encode finite vectors: payload and exponents. A vector of zeros has exponent 0."""
    largest = vectors.abs().amax(dim=1) if len(vectors) else vectors.new_zeros(0)
    exponents = (torch.frexp(largest).exponent - _TOP_EXPONENT).clamp(-126, 127)
    exponents = torch.where(largest > 0, exponents, torch.zeros_like(exponents)).to(torch.int8)
    scales = torch.from_numpy(powers(-exponents.numpy().astype(np.int16)))  # int8 cannot hold -(-128)
    return (vectors * scales[:, None]).half(), exponents.numpy()


def encode_int8(vectors: Float32[Tensor, "p d"]) -> tuple[Int8[Tensor, "p d"], Int8[np.ndarray, "p"]]:
    """Encode finite vectors: payload and exponents. A vector of zeros has exponent 0.

    Each component is rounded to the nearest step of 2**exponent, at most 1/63.75 of the vector's largest; components
    below 2**-127 are lost.
    """
    largest = vectors.abs().amax(dim=1) if len(vectors) else vectors.new_zeros(0)
    fraction, exponents = torch.frexp(largest)  # fraction in [0.5, 1)
    exponents = exponents - _TOP_INT8 + (fraction >= 127.5 / 128).int()
    exponents = torch.where(largest > 0, exponents.clamp(-126, 127), torch.zeros_like(exponents)).to(torch.int8)
    scales = torch.from_numpy(powers(-exponents.numpy().astype(np.int16)))
    return (vectors * scales[:, None]).round().to(torch.int8), exponents.numpy()


def powers(exponents: NDArray[np.signedinteger[Any]]) -> NDArray[np.float32]:
    """Return 2**exponent as float32, exactly."""
    return np.ldexp(np.float32(1), exponents.astype(np.int32))
