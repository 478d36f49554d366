"""Scaling laws: power laws fitted to losses, and how long data-parallel and local training take on slow links.

    L(x) = (scale / x)^alpha, fitted by least squares of log L on log x
    H steps take   H (t + r(S, B))  with an all-reduce after each,   H t + r(S, B)  with one at the end
    r(S, B) = 2 (K - 1) / K  S / B: a ring all-reduce of S bytes among K workers over B bytes a second

The laws have no floor: fits are comparable over the same sizes only, and L goes to 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PowerLaw:
    """L(x) = (scale / x)^alpha.

    Attributes:
        level: logarithm of what it gives for size 1.
        alpha: the exponent.
        r_squared: of the logarithms: the share of their variance that the law explains; 1 for equal losses.
    """

    level: float
    alpha: float
    r_squared: float

    @property
    def scale(self) -> float:
        """Where the law gives 1; NaN if alpha is 0, 0 or infinity where that is beyond numbers."""
        if not self.alpha:
            return math.nan
        with np.errstate(over="ignore", under="ignore"):
            return float(np.exp(np.float64(self.level) / self.alpha))

    def __call__(self, x: float) -> float:
        """The law's loss for a size above 0."""
        return math.exp(self.level - self.alpha * math.log(x))


def fit_power_law(sizes: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """The law of least squared error in the logarithms.

    Args:
        sizes: parameters, samples or operations; above 0, not all equal.
        losses: one a size; above 0.

    Raises:
        ValueError: numbers of different count, fewer than two sizes, or a number that is not above 0.
    """
    if len(sizes) != len(losses):
        raise ValueError(f"losses: got {len(losses)} for {len(sizes)} sizes; one a size is needed")
    for name, values in (("sizes", sizes), ("losses", losses)):
        if not all(0.0 < value < math.inf for value in values):
            raise ValueError(f"{name}: got {list(values)}; finite numbers above 0 are allowed")
    if len(set(sizes)) < 2:
        raise ValueError(f"sizes: got {list(sizes)}; at least two different ones are needed")
    x, y = np.log(np.asarray(sizes, np.float64)), np.log(np.asarray(losses, np.float64))
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    rest, total = dy - slope * dx, float(dy @ dy)
    return PowerLaw(float(y.mean() - slope * x.mean()), -slope, 1.0 - float(rest @ rest) / total if total else 1.0)


@dataclass(frozen=True)
class Cluster:
    """Workers that exchange a model.

    Attributes:
        workers: number of them, K >= 1.
        bandwidth: bytes a second of the links among them.
    """

    workers: int
    bandwidth: float

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers: got {self.workers}; at least 1 is allowed")
        if not self.bandwidth > 0.0:
            raise ValueError(f"bandwidth: got {self.bandwidth}; a number of bytes a second above 0 is allowed")

    def all_reduce(self, size: float) -> float:
        """Seconds of a ring all-reduce of `size` bytes."""
        return 2.0 * (self.workers - 1) / self.workers * size / self.bandwidth


def data_parallel_seconds(steps: int, compute: float, size: float, cluster: Cluster) -> float:
    """Seconds of `steps` steps of `compute` seconds each, with an all-reduce of `size` bytes after each."""
    return steps * (compute + cluster.all_reduce(size))


def local_seconds(steps: int, compute: float, size: float, cluster: Cluster, inner: Cluster | None = None) -> float:
    """Seconds of `steps` steps with one all-reduce at the end.

    Args:
        steps, compute, size: as of `data_parallel_seconds`.
        cluster: those who average at the end.
        inner: each of them is a cluster itself, with an all-reduce after each step; None: a single worker.
    """
    inside = steps * compute if inner is None else data_parallel_seconds(steps, compute, size, inner)
    return inside + cluster.all_reduce(size)
