"""Quantisation to 8 bits in blocks, restated in float64 NumPy.

Blocks with their own absolute maximum are those of T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit
Optimizers via Block-wise Quantization", ICLR (2022), arXiv:2110.02861; the levels here are linear.

    A = max |x| of the block;   code = round(127 x / A) in -127 ... 127;   decoded = A code / 127
    |decoded - x| <= A / 254;   with stochastic rounding E decoded = x, variance (A / 127)^2 p (1 - p)

Choices where the source leaves or contradicts itself:

* That paper's levels are a "dynamic tree", dense near 0. Linear levels keep 0 and both ends exact and are symmetric:
  -128 is not used.
* Halves are rounded to the even code. The last block may be shorter. A block of zeros has codes 0.
* The block's maximum is kept in float64; in a message it would be a float32, then counted with 32 bits.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def maxima(x: Array, block: int) -> Array:
    """Return max |x| of each block [ceil(d / block)] of x [d]."""
    return np.array([np.max(np.abs(x[i : i + block])) for i in range(0, x.size, block)])


def scaled(x: Array, block: int) -> Array:
    """Return 127 x / A [d], 0 in blocks of zeros."""
    A = np.repeat(maxima(x, block), block)[: x.size]
    return np.where(A > 0, 127.0 * x / np.where(A > 0, A, 1.0), 0.0)


def quantise(x: Array, block: int) -> tuple[Integers, Array]:
    """Return the codes [d], rounded to the nearest, and the maxima."""
    return np.rint(scaled(x, block)).astype(np.int64), maxima(x, block)


def quantise_stochastically(x: Array, uniforms: Array, block: int) -> tuple[Integers, Array]:
    """Return the codes [d], up where uniforms [d] < the fraction of 127 x / A above its floor, and the maxima."""
    y = scaled(x, block)
    return (np.floor(y) + (uniforms < y - np.floor(y))).astype(np.int64), maxima(x, block)


def decode(codes: Integers, A: Array, block: int) -> Array:
    """Return A code / 127 [d]."""
    return np.asarray(np.repeat(A, block)[: codes.size] * codes / 127.0)


def variance(x: Array, block: int) -> Array:
    """Return the variance [d] of the decoded entries with stochastic rounding."""
    p = scaled(x, block) - np.floor(scaled(x, block))
    A = np.repeat(maxima(x, block), block)[: x.size]
    return (A / 127.0) ** 2 * p * (1.0 - p)


def bits(d: int, block: int) -> int:
    """Return the bits of a message: 8 d and 32 for each block."""
    return 8 * d + 32 * ceil(d / block)
