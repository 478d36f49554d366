"""The (1,1)-norm of a Hessian from products with Cauchy vectors, restated in float64 NumPy.

S. Xie, M. A. Mohamadi, Z. Li, "Adam Exploits l_inf-geometry of Loss Landscape via Coordinate-wise Adaptivity",
ICLR 2025, arXiv:2410.08198 (2024).

    ||H||_{1,1} = sum_ij |H_ij|;   z with independent standard Cauchy entries: (H z)_i is Cauchy of scale sum_j |H_ij|
    estimate: sum_i median_k |(H z_k)_i|,   or with half the distance of the quartiles of (H z_k)_i in its place

Choices: numpy's (linear) quantiles; the median of an even number of draws is the mean of the middle two. The largest
row sum is the operator norm from l_inf to l_inf. For the error: for large n the median of n magnitudes of a
Cauchy variable has the relative deviation pi / (2 sqrt n).
"""

from collections.abc import Callable
from math import pi, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def row_scales(hvp: Callable[[Array], Array], draws: Array, how: Literal["median", "quartiles"] = "median") -> Array:
    """Estimate sum_j |H_ij| for each i; `draws` [K, d]."""
    products = np.stack([hvp(z) for z in draws])
    if how == "median":
        return np.asarray(np.median(np.abs(products), axis=0))
    low, high = np.quantile(products, [0.25, 0.75], axis=0)
    return np.asarray((high - low) / 2)


def one_one_norm(hvp: Callable[[Array], Array], draws: Array, how: Literal["median", "quartiles"] = "median") -> float:
    return float(np.sum(row_scales(hvp, draws, how)))


def relative_deviation(draws: int) -> float:
    """Of one row's estimate; that of the sum is at most this."""
    return pi / (2 * sqrt(draws))
