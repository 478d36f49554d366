"""Renyi differential privacy of sums of randomised messages, by exact convolution of their probabilities.

    D_alpha(P || Q) = log(sum_z P(z)^alpha Q(z)^(1 - alpha)) / (alpha - 1)

I. Mironov, "Renyi Differential Privacy", CSF 2017 (arXiv 1702.07476). Divergences of independent messages (coordinates,
rounds) add up. From (alpha, D) follows (epsilon, delta) with

    epsilon = D + log((alpha - 1) / alpha) - (log delta + log alpha) / (alpha - 1)

(C. Canonne, G. Kamath, T. Steinke, "The Discrete Gaussian for Differential Privacy", 2020, arXiv 2004.00010).
Everything is done with logarithms: the probabilities of many clients' sums fall below the smallest float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def logs(p: Array) -> Array:
    """log p, -inf where p is 0."""
    with np.errstate(divide="ignore"):
        found: Array = np.log(p)
    return found


def log_sum(log_pmfs: Sequence[Array]) -> Array:
    """Logarithms of the probabilities of a sum of independent whole numbers >= 0."""
    total = np.zeros(1)
    for one in log_pmfs:
        shifted = np.full((one.size, total.size + one.size - 1), -np.inf)
        for i, value in enumerate(one):
            shifted[i, i : i + total.size] = total + value
        total = np.logaddexp.reduce(shifted, axis=0)
    return total


def renyi(log_p: Array, log_q: Array, alpha: float) -> float:
    """D_alpha(P || Q) for alpha > 0; at 1 the Kullback-Leibler divergence, at infinity the largest log ratio.

    Raises:
        ValueError: alpha is not above 0, or the two are of other lengths.
    """
    if not alpha > 0.0:
        raise ValueError(f"alpha: got {alpha}; a number above 0 is allowed")
    if log_p.shape != log_q.shape:
        raise ValueError(f"log_q: got {log_q.shape}; the shape of log_p, {log_p.shape}, is needed")
    possible = log_p > -np.inf
    if alpha >= 1.0 and bool(np.isneginf(log_q[possible]).any()):
        return math.inf
    p, q = log_p[possible], log_q[possible]
    if alpha == 1.0:
        return float(np.exp(p) @ (p - q))
    if math.isinf(alpha):
        return float((p - q).max())
    finite = q > -np.inf
    terms = alpha * p[finite] + (1.0 - alpha) * q[finite]
    return float(np.logaddexp.reduce(terms)) / (alpha - 1.0)


def renyi_of_sum(p: Array, q: Array, rest: Sequence[Array], alpha: float) -> float:
    """D_alpha between sums of messages in which one client's probabilities are p or q [m], and the others' `rest`."""
    common = log_sum([logs(one) for one in rest])
    return renyi(log_sum([common, logs(p)]), log_sum([common, logs(q)]), alpha)


def epsilon_of(divergences: Mapping[float, float], delta: float) -> float:
    """The smallest epsilon for which (epsilon, delta)-differential privacy follows from alpha -> D_alpha.

    Args:
        divergences: of all messages together, for orders alpha above 1.
        delta: in (0, 1).

    Raises:
        ValueError: one of them is out of range.
    """
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta: got {delta}; a number in (0, 1) is allowed")
    if not divergences or min(divergences) <= 1.0:
        raise ValueError(f"divergences: got orders {sorted(divergences)}; at least one, above 1, is needed")
    found = (
        d + math.log((alpha - 1.0) / alpha) - (math.log(delta) + math.log(alpha)) / (alpha - 1.0)
        for alpha, d in divergences.items()
    )
    return max(0.0, min(found))
