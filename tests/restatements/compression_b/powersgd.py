"""PowerSGD, restated in float64 NumPy.

T. Vogels, S. P. Karimireddy, M. Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
Optimization", NeurIPS (2019), arXiv:1905.13727; code: epfml/powersgd, and torch's powerSGD_hook.

M workers with matrices Delta_w = g_w + e_w [n, m], a common Q [m, r] from the step before:

    P = orth(mean_w Delta_w Q);   Q <- mean_w Delta_w' P;   update U = P Q'
    e_w = Delta_w - U;   momentum: v <- lam v + U,  x <- x - lr (U + v)

Choices where the source leaves or contradicts itself:

* Algorithm 2 of the paper subtracts each worker's own decompressed message from Delta_w, the codes (the authors' and
  torch's) the common U. The means of the errors over the workers agree, as U is linear in Q: mean Delta_w - P Q'.
  The errors themselves do not. Here the common one; `own_errors` gives the paper's.
* orth is Gram-Schmidt from the first column on. The codes use QR or divide by norm + 1e-8; signs of columns then may
  differ, which leaves U unchanged. A column that vanishes stays 0 here.
* Q need not be orthogonal before the first product: Gram-Schmidt of Delta Q R, R upper triangular with a positive
  diagonal, is that of Delta Q.
* The current library of the authors alternates, one product a step; the paper and torch make both in every step.
* Vectors (biases) are sent whole. Ranks are at most min(n, m).
* Floats per worker and step: r (n + m), up and down alike.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def orthonormal(P: Array) -> Array:
    """Return the columns of P [n, r] made orthonormal one after the other; columns without a remainder are 0."""
    out = np.zeros_like(P)
    for j in range(P.shape[1]):
        column = P[:, j].copy()
        for _ in range(2):
            column = column - out[:, :j] @ (out[:, :j].T @ column)
        norm = float(np.linalg.norm(column))
        if norm > 1e-14 * float(np.linalg.norm(P[:, j])):
            out[:, j] = column / norm
    return out


def compress(deltas: Sequence[Array], Q: Array) -> tuple[Array, Array, list[Array]]:
    """Return P [n, r], the mean Q [m, r] and each worker's own Q."""
    P = orthonormal(np.mean([delta @ Q for delta in deltas], axis=0))
    own = [delta.T @ P for delta in deltas]
    return P, np.asarray(np.mean(own, axis=0)), own


def step(gradients: Sequence[Array], errors: Sequence[Array], Q: Array) -> tuple[Array, list[Array], Array, int]:
    """Return the update U [n, m], the new errors, the Q of the next step and the floats each worker sent."""
    deltas = [g + e for g, e in zip(gradients, errors, strict=True)]
    P, Q, _ = compress(deltas, Q)
    U = P @ Q.T
    return U, [delta - U for delta in deltas], Q, P.size + Q.size


def own_errors(gradients: Sequence[Array], errors: Sequence[Array], Q: Array) -> list[Array]:
    """Return Delta_w - P Q_w', the errors of the paper's Algorithm 2."""
    deltas = [g + e for g, e in zip(gradients, errors, strict=True)]
    P, _, own = compress(deltas, Q)
    return [delta - P @ one.T for delta, one in zip(deltas, own, strict=True)]


def momentum_step(x: Array, v: Array, U: Array, lr: float, lam: float) -> tuple[Array, Array]:
    """Return the new x and v [n, m]."""
    v = lam * v + U
    return x - lr * (U + v), v
