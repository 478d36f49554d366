"""Directional sharpness, restated in float64 NumPy.

Y. Pan, Y. Li, "Toward Understanding Why Adam Converges Faster Than SGD for Transformers", arXiv:2306.00204 (2023).

    v = u / |u|,   S(u) = v^T H v,   slope(u) = <grad f, v>               all tensors joined to one vector
    f(theta + eta v) ~ f + eta slope + eta^2 S / 2;   least at eta = -slope / S, lower by slope^2 / (2 S)   (S > 0)
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def dot(a: Sequence[Array], b: Sequence[Array]) -> float:
    return sum(float(np.sum(x * y)) for x, y in zip(a, b, strict=True))


def unit(u: Sequence[Array]) -> list[Array]:
    norm = np.sqrt(dot(u, u))
    return [x / norm for x in u]


def directional_sharpness(hvp: Callable[[list[Array]], Sequence[Array]], u: Sequence[Array]) -> float:
    """`hvp(v)` is H v in the tensors of v."""
    v = unit(u)
    return dot(v, hvp(v))


def slope(grad: Sequence[Array], u: Sequence[Array]) -> float:
    return dot(grad, unit(u))


def best_step(slope: float, sharpness: float) -> tuple[float, float]:
    """Return eta along v and the decrease of the model; infinite if it has no minimum."""
    if sharpness <= 0:
        return (float("inf") if slope <= 0 else -float("inf")), float("inf")
    return -slope / sharpness, slope**2 / (2 * sharpness)
