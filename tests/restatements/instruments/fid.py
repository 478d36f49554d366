"""The Frechet distance of two sets of features, and the toy saddle, restated in float64 NumPy.

M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter, "GANs Trained by a Two Time-Scale Update Rule
Converge to a Local Nash Equilibrium", arXiv:1706.08500 (2017).

    FID = |m - m_w|^2 + tr( C + C_w - 2 (C C_w)^{1/2} )
    (C C_w)^{1/2}: the real part of the matrix square root of the product; its trace is that of the root of the
    symmetric C^{1/2} C_w C^{1/2}, and the sum of the roots of the eigenvalues of C C_w
    toy: f(x, y) = (1 + x^2) (100 - y^2);   x <- x - a (2 x (100 - y^2) + noise),   y <- y + b (-2 y (1 + x^2) + noise)

Choices: covariances have N - 1 below (numpy's and the authors'). Both players of the toy step from the same point. Near
(0, 0) x is multiplied by 1 - 200 a and y by 1 - 2 b: x is stable for a < 0.01.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm

Array = NDArray[np.float64]


def moments(features: Array) -> tuple[Array, Array]:
    """Mean [d] and covariance [d, d] of [N, d]."""
    centred = features - features.mean(axis=0)
    return features.mean(axis=0), centred.T @ centred / (len(features) - 1)


def root_trace_schur(C: Array, C_w: Array) -> float:
    return float(np.trace(np.real(sqrtm(C @ C_w))))


def root_trace_symmetric(C: Array, C_w: Array) -> float:
    w, q = np.linalg.eigh(C)
    root = (q * np.sqrt(np.maximum(w, 0))) @ q.T
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(root @ C_w @ root), 0)).sum())


def frechet(
    m: Array, C: Array, m_w: Array, C_w: Array, root_trace: Callable[[Array, Array], float] = root_trace_symmetric
) -> float:
    return float((m - m_w) @ (m - m_w) + np.trace(C) + np.trace(C_w) - 2 * root_trace(C, C_w))


def fid(real: Array, fake: Array, root_trace: Callable[[Array, Array], float] = root_trace_symmetric) -> float:
    return frechet(*moments(real), *moments(fake), root_trace)


def saddle(x: float, y: float) -> float:
    return (1 + x**2) * (100 - y**2)


def two_time_scales(
    x: float,
    y: float,
    a: float,
    b: float,
    steps: int,
    noise: Callable[[int], tuple[float, float]] = lambda t: (0.0, 0.0),
) -> list[tuple[float, float]]:
    """`steps` + 1 points; `noise(t)` is added to both gradients of step t = 0, 1, ..."""
    points = [(x, y)]
    for t in range(steps):
        n_x, n_y = noise(t)
        x, y = x - a * (2 * x * (100 - y**2) + n_x), y + b * (-2 * y * (1 + x**2) + n_y)
        points.append((x, y))
    return points
