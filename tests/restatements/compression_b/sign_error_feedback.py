"""Signs with error feedback (EF-SignSGD), restated in float64 NumPy.

S. P. Karimireddy, Q. Rebjock, S. U. Stich, M. Jaggi, "Error Feedback Fixes SignSGD and other Gradient Compression
Schemes", ICML (2019), arXiv:1901.09847; code: epfml/error-feedback-SGD.

    p = gamma g + e;   C(p) = (|p|_1 / d) sign(p);   x <- x - C(p);   e <- p - C(p)
    |C(p) - p|^2 = |p|^2 - |p|_1^2 / d = (1 - phi) |p|^2,   phi = |p|_1^2 / (d |p|^2) in [1 / d, 1]

Choices where the source leaves or contradicts itself:

* sign(0) = 1, so that a message is d bits; then the identity above is exact. The authors' code has sign(0) = 0, which
  needs three values and makes the error smaller.
* The paper has one worker. M of them: each its own error, the server takes the mean of the messages.
* gamma is inside of the error: with a changing gamma old errors keep the old one.
* The scale is over the whole vector; the code has one for each tensor.
* Bits: d + 32 for a message.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def signs(p: Array) -> Array:
    """Return 1 where p >= 0, else -1."""
    return np.where(p >= 0.0, 1.0, -1.0)


def compress(p: Array) -> Array:
    """Return (|p|_1 / d) sign(p) for p [d]."""
    return float(np.mean(np.abs(p))) * signs(p)


def step(x: Array, errors: Array, gradients: Array, gamma: float) -> tuple[Array, Array, Array]:
    """One step: x [d], errors, gradients [M, d] -> x, errors, messages [M, d]."""
    wanted = gamma * gradients + errors
    messages = np.stack([compress(p) for p in wanted])
    return x - messages.mean(axis=0), wanted - messages, messages


def density(p: Array) -> float:
    """Return phi = |p|_1^2 / (d |p|_2^2), for p not 0."""
    return float(np.sum(np.abs(p)) ** 2 / (p.size * np.sum(p * p)))


def bits(d: int) -> int:
    """Return the bits of a message."""
    return d + 32
