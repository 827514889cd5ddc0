"""Short numbers with a power of two a vector: vector = payload * 2**exponent.

float16: the largest component of the payload lies in [2**14, 2**15). So float16 keeps out of its subnormal numbers,
however small the vector is; scaling by a power of two is exact.
int8: the largest component lies in [64, 127], so each is kept to 1/127 of the largest.
int4: a component is a whole number of steps, -8 to 7. Byte j holds component j in its low half and component j + d/2
in its high half; the last byte holds 8 further bits of the step: vector = numbers * (256 + last) * 2**exponent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int8, UInt8
from numpy.typing import NDArray
from torch import Tensor

_TOP_EXPONENT = 15  # float16 holds up to 2**16: the largest component of a vector is scaled to [2**14, 2**15)
_TOP_INT8 = 7  # to [2**6, 2**7), and once more by a half where it would be rounded to 2**7
_TOP_INT4 = 8  # to [2**7, 2**8), while a step is chosen
_STEPS_INT4 = tuple(share / 7.5 for share in (1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.52, 0.44))  # of the largest; tried
_LEAST_STEP = 4.0  # of the scaled numbers: below it the exponent would not fit in 8 bits
_LOW = np.array([((byte & 15) ^ 8) - 8 for byte in range(256)], dtype=np.float32)
_HIGH = np.array([((byte >> 4) ^ 8) - 8 for byte in range(256)], dtype=np.float32)


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


def encode_int4(vectors: Float32[Tensor, "p d"]) -> tuple[UInt8[Tensor, "p d/2+1"], Int8[np.ndarray, "p"]]:
    """Encode finite vectors of even length: payload and exponents.

    Of some steps the one that leaves the least squared error is taken, the largest components cut at its ends; then the
    step is what fits the numbers best (least squares). So no error is longer than its vector. Vectors whose largest
    component is below 2**-118 are lost.
    """
    largest = vectors.abs().amax(dim=1) if len(vectors) else vectors.new_zeros(0)
    exponents = torch.frexp(largest).exponent.clamp(min=-110) - _TOP_INT4
    scaled = vectors * torch.from_numpy(powers(-exponents.numpy()))[:, None]
    numbers, steps = _best_steps(scaled)
    fraction, shift = torch.frexp(steps)  # fraction in [0.5, 1)
    parts = (fraction * 512).round()
    over = parts == 512
    parts, shift = torch.where(over, 256.0, parts), shift + over.int()
    nibbles = numbers.to(torch.int32) & 15
    first, second = nibbles.chunk(2, dim=1)
    pairs = first | (second << 4)
    payload = torch.cat([pairs, parts[:, None].to(torch.int32) - 256], dim=1).to(torch.uint8)
    return payload, (exponents + shift - 9).to(torch.int8).numpy()


def _best_steps(vectors: Float32[Tensor, "p d"]) -> tuple[Float32[Tensor, "p d"], Float32[Tensor, "p"]]:
    """Return whole numbers -8 to 7, and the step of each vector: numbers * step leaves the least squared error."""
    largest = vectors.abs().amax(dim=1) if len(vectors) else vectors.new_zeros(0)
    best = torch.full_like(largest, -1.0)
    numbers, steps = torch.zeros_like(vectors), torch.full_like(largest, _LEAST_STEP)
    for share in _STEPS_INT4:
        found = (vectors / (largest * share).clamp(min=_LEAST_STEP)[:, None]).round().clamp(-8, 7)
        product, square = (vectors * found).sum(dim=1), (found * found).sum(dim=1).clamp(min=1)
        explained = product * product / square  # of the squared norm, by the step product / square
        better = explained > best
        best = torch.where(better, explained, best)
        numbers = torch.where(better[:, None], found, numbers)
        steps = torch.where(better, (product / square).clamp(min=_LEAST_STEP), steps)
    return numbers, steps


def decode_int4(payload: UInt8[Tensor, "p d/2+1"]) -> Float32[Tensor, "p d"]:
    """Return numbers * (256 + last), exactly; times 2**exponent they are the vectors."""
    stored: NDArray[np.uint8] = payload.numpy()
    numbers = np.hstack([_LOW[stored[:, :-1]], _HIGH[stored[:, :-1]]])
    numbers *= (np.float32(256) + stored[:, -1:]).astype(np.float32)
    return torch.from_numpy(numbers)


def powers(exponents: NDArray[np.signedinteger[Any]]) -> NDArray[np.float32]:
    """Return 2**exponent as float32, exactly."""
    return np.ldexp(np.float32(1), exponents.astype(np.int32))
