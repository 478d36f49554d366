"""QSGD, restated in float64 NumPy.

D. Alistarh, D. Grubic, J. Li, R. Tomioka, M. Vojnović, "QSGD: Communication-Efficient SGD via Gradient Quantization and
Encoding", NeurIPS (2017), arXiv:1610.02132.

    r_i = s |v_i| / ||v||_2;   l_i = floor(r_i), and one more with probability r_i - l_i
    Q_s(v)_i = ||v||_2 sign(v_i) l_i / s
    E Q_s(v) = v
    E |Q_s(v) - v|^2 = (||v|| / s)^2 sum_i p_i (1 - p_i) <= min(d / s^2, sqrt(d) / s) ||v||^2,   p_i = r_i - floor(r_i)

Choices where the source leaves or contradicts itself:

* s is the number of levels above 0: l_i is in 0 ... s, so a code of fixed length has 2 s + 1 values with its sign.
* |v_i| = ||v|| gives r_i = s exactly in reals; in floats it is clipped to s, so that no code exceeds s.
* v = 0 has norm 0 and codes 0.
* Bits: 32 for the norm. Fixed length: d ceil(log2(2 s + 1)). The paper's sparse code: for each entry that is not 0 the
  Elias omega code of its distance to the one before (the first: to place -1), a bit of sign, the Elias code of l_i.
* M clients: each quantises its own gradient with its own norm; the server averages what it decodes.
"""

from math import ceil, log2, sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def ratios(v: Array, s: int) -> Array:
    """Return r = s |v| / ||v|| [d], between 0 and s."""
    norm = float(np.sqrt(np.sum(v * v)))
    return np.zeros_like(v) if norm == 0.0 else np.minimum(s * np.abs(v) / norm, s)


def quantise(v: Array, uniforms: Array, s: int) -> tuple[float, Integers]:
    """Return ||v|| and the signed codes [d] of v [d]; up where uniforms [d] < r - floor(r)."""
    r = ratios(v, s)
    l = np.floor(r) + (uniforms < r - np.floor(r))
    return float(np.sqrt(np.sum(v * v))), (np.sign(v) * l).astype(np.int64)


def decode(norm: float, codes: Integers, s: int) -> Array:
    """Return norm * codes / s [d]."""
    return np.asarray(norm * codes / s)


def mean_of_clients(vectors: Array, uniforms: Array, s: int) -> tuple[Array, Integers]:
    """Return what the server averages [d] from vectors and uniforms [M, d], and the codes [M, d] sent."""
    messages = [quantise(v, u, s) for v, u in zip(vectors, uniforms, strict=True)]
    return np.mean([decode(n, c, s) for n, c in messages], axis=0), np.stack([c for _, c in messages])


def probabilities(v: Array, s: int) -> Array:
    """Return Pr(l_i = l) [d, s + 1]."""
    r = ratios(v, s)
    p = np.zeros((v.size, s + 1))
    for i, value in enumerate(r):
        low = int(np.floor(value))
        p[i, low] += 1.0 - (value - low)
        if low < s:
            p[i, low + 1] += value - low
    return p


def expectation(v: Array, s: int) -> Array:
    """Return E Q_s(v) [d] from the probabilities."""
    norm = float(np.sqrt(np.sum(v * v)))
    return norm * np.sign(v) * (probabilities(v, s) @ np.arange(s + 1)) / s


def variance(v: Array, s: int) -> float:
    """Return E |Q_s(v) - v|^2."""
    p = ratios(v, s) - np.floor(ratios(v, s))
    return float(np.sum(v * v) / s**2 * np.sum(p * (1.0 - p)))


def variance_bound(v: Array, s: int) -> float:
    """Return min(d / s^2, sqrt(d) / s) ||v||^2."""
    return min(v.size / s**2, sqrt(v.size) / s) * float(np.sum(v * v))


def fixed_bits(d: int, s: int) -> int:
    """Return the bits of a message of fixed length."""
    return 32 + d * ceil(log2(2 * s + 1))


def elias_bits(n: int) -> int:
    """Return the length of the Elias omega code of n >= 1: one for a final 0, then the binary digits, recursively."""
    bits = 1
    while n > 1:
        digits = n.bit_length()
        bits += digits
        n = digits - 1
    return bits


def sparse_bits(codes: Integers) -> int:
    """Return the bits of the paper's sparse code of a message."""
    bits, last = 32, -1
    for place in np.flatnonzero(codes):
        bits += elias_bits(int(place) - last) + 1 + elias_bits(abs(int(codes[place])))
        last = int(place)
    return bits
