"""The (1,1)-norm of a Hessian, sum_ij |H_ij|, from products with vectors of Cauchy draws.

If the entries of z are independent standard Cauchy numbers, (Hz)_i is a Cauchy number of scale sum_j |H_ij|. The scale
is the median of absolute values, and half the distance of the quartiles (there is no mean). Summed over i it is the
norm, by which the rate of Adam is bounded, where that of SGD has d times the largest eigenvalue.

S. Xie, M. A. Mohamadi, Z. Li, "Adam Exploits l_infinity-geometry of Loss Landscape via Coordinate-wise Adaptivity",
arXiv:2410.08198 (2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.instruments.lanczos import eigenpairs
from shoal.instruments.surface import Surface
from shoal.tensors.random import key, uniform


@dataclass(frozen=True)
class RowScales:
    """What Cauchy draws tell of a symmetric matrix [d, d].

    Attributes:
        medians: estimates of sum_j |H_ij| for each i by the median of absolute values, float64 [d] on the CPU.
        quartiles: the same by half the distance of the quartiles.
        draws: how many.
    """

    medians: Tensor
    quartiles: Tensor
    draws: int

    @property
    def norm(self) -> float:
        """The (1,1)-norm, by the medians."""
        return float(self.medians.sum())

    @property
    def norm_by_quartiles(self) -> float:
        """The (1,1)-norm, by the quartiles."""
        return float(self.quartiles.sum())


@dataclass(frozen=True)
class Smoothness:
    """A loss surface's constants in two geometries.

    Attributes:
        norm: (1,1)-norm of the Hessian, to be compared with d times the largest eigenvalue.
        norm_by_quartiles: another estimate of it.
        size: d.
        largest: the largest absolute eigenvalue.
        rows: the estimates by coordinate.
    """

    norm: float
    norm_by_quartiles: float
    size: int
    largest: float
    rows: RowScales

    @property
    def per_coordinate(self) -> float:
        """The norm over d, to be compared with the largest eigenvalue."""
        return self.norm / self.size

    @property
    def advantage(self) -> float:
        """d times the largest eigenvalue over the norm: above 1 where Adam's bound is the better one."""
        return self.size * self.largest / self.norm if self.norm else math.nan


def smoothness(surface: Surface, at: Tensor | None = None, *, draws: int = 101, seed: int = 0) -> Smoothness:
    """The (1,1)-norm of a surface's Hessian and its largest absolute eigenvalue.

    Cauchy numbers reach far: a model in float64 is needed where small rows count. `draws` vectors [d] are kept.

    Args:
        surface: whose Hessian.
        at: where; None: where the model is.
        draws: >= 3; a row's relative standard error is about pi / (2 sqrt(draws)), and that of the sum no more.
        seed: of the draws, >= 0.
    """
    rows = row_scales(lambda z: surface.hvp(z, at), surface.vector(), draws=draws, seed=seed)
    ends = eigenpairs(surface, at, top=1, bottom=min(1, surface.size - 1), seed=seed).values
    return Smoothness(rows.norm, rows.norm_by_quartiles, surface.size, float(ends.abs().max()), rows)


def row_scales(
    products: Callable[[Tensor], Tensor], like: Tensor, *, draws: int = 101, seed: int = 0, together: int = 8
) -> RowScales:
    """sum_j |H_ij| of each row of a symmetric matrix.

    Args:
        products: from vectors [k, d] to their products with it.
        like: [d], in whose form the vectors are.
        draws: >= 3.
        seed: >= 0.
        together: largest k.

    Raises:
        ValueError: there are too few draws.
    """
    if draws < 3:
        raise ValueError(f"draws: got {draws}; a number >= 3 is allowed")
    d = like.numel()
    found = torch.empty(draws, d, dtype=torch.float64)
    for start in range(0, draws, together):
        own = torch.tensor([key(seed, "cauchy", k) for k in range(start, min(start + together, draws))])
        found[start : start + len(own)] = products(cauchy(own, d).to(like)).double().cpu()
    ordered = found.sort(0).values
    quartiles = 0.5 * (_quantile(ordered, 0.75) - _quantile(ordered, 0.25))
    return RowScales(_quantile(found.abs_().sort(0).values, 0.5), quartiles, draws)


def cauchy(keys: Tensor, size: int) -> Tensor:
    """Standard Cauchy numbers, float64 [*keys.shape, size], one row a key."""
    return torch.tan(math.pi * (uniform(keys, size, dtype=torch.float64) - 0.5))


def _quantile(ordered: Tensor, q: float) -> Tensor:
    """The quantile of each column of ascending values [k, d], between the two nearest (torch.quantile takes few)."""
    place = q * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return torch.lerp(low, high, place - math.floor(place))
