"""Scaling of parameters by layer, and how far ahead to forecast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 1e-6


def scaled(states: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """States minus their mean, over their standard deviation plus 1e-6, by layer.

    Args:
        states: [P, B, c], c states of each of B models.
        sizes: entries of the layers, each a tensor of parameters, which sum to P.

    Returns:
        The scaled states [P, B, c], means [P, B] and spreads (deviations plus 1e-6) [P, B], over a layer's entries and
        the states together.
    """
    result = torch.empty_like(states)
    means, spreads = torch.empty_like(states[..., 0]), torch.empty_like(states[..., 0])
    at = 0
    for size in sizes:
        part = states[at : at + size]
        mean = part.mean((0, 2))
        spread = part.std((0, 2)) + EPS if size * states.shape[2] > 1 else torch.full_like(mean, EPS)
        result[at : at + size] = (part - mean[:, None]) / spread[:, None]
        means[at : at + size], spreads[at : at + size] = mean, spread
        at += size
    return result, means, spreads


def unscaled(values: Tensor, means: Tensor, spreads: Tensor) -> Tensor:
    """Scaled values [P, B, ...] as they were."""
    further = (...,) + (None,) * (values.dim() - 2)
    return values * spreads[further] + means[further]


def horizons(max_steps: int, period: int, horizon: int = 40, power: float = 2.0) -> list[int]:
    """Spacings ahead of each forecast: round(linspace(horizon^(1/power), 1, n)^power), n = max_steps // period.

    >>> horizons(10_000, 1000)
    [40, 33, 26, 21, 16, 11, 8, 5, 3, 1]
    """
    count, first = max(1, max_steps // period), horizon ** (1.0 / power)
    slope = (first - 1.0) / max(1, count - 1)
    return [round((first - slope * i) ** power) for i in range(count)]
