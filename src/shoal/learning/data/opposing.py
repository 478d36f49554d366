"""A regression with outliers whose signals oppose each other, and the linear network that learns it.

E. Rosenfeld, A. Risteski, "Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization",
ICLR 2024 (arXiv:2311.04163).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shoal.learning.data.dataset import Data, Dataset


class TwoLayerLinear(nn.Module):
    """F(x) = c (b x): inputs [B, d] -> [B, 1]. It begins with c = 0.1 and b about 0.01."""

    def __init__(self, dimension: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(0.1, dtype=dtype))
        self.b = nn.Parameter(0.01 * torch.randn(dimension, dtype=dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        """The prediction of each row."""
        return self.c * (inputs @ self.b)[:, None]


@dataclass(frozen=True, eq=False)
class OpposingSignals:
    """The problem: y = beta x + 1/2 |u x_o|, where x is standard normal, and x_o is 0 or, rarely, +-sqrt(alpha/p) u.

    The target's part of the outliers is the same for both signs, so that no linear function of x_o is of use.

    Attributes:
        beta: float64 [d1].
        u: unit vector, float64 [d2].
        alpha: variance along u; p: share of outliers.
    """

    beta: Tensor
    u: Tensor
    alpha: float
    p: float

    @property
    def signal(self) -> float:
        """sqrt(alpha / p), the length of an outlier."""
        return math.sqrt(self.alpha / self.p)

    def population_loss(self, c: Tensor, b: Tensor) -> Tensor:
        """1/2 (|c b - beta|^2 + alpha c^2 (b_o u)^2), the expected loss but for a constant; b [d1 + d2]."""
        own, other = b[: len(self.beta)], b[len(self.beta) :]
        return 0.5 * ((c * own - self.beta).square().sum() + self.alpha * c**2 * (other @ self.u) ** 2)

    def population_slope(self, c: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient [1 + d1 + d2] and Hessian of that loss, for c and b one after the other."""
        d1, alpha = len(self.beta), self.alpha
        own, other = b[:d1], b[d1:]
        away, along = c * own - self.beta, other @ self.u
        slope_c = (own @ away + alpha * c * along**2)[None]
        gradient = torch.cat([slope_c, c * away, alpha * c**2 * along * self.u])
        hessian = torch.zeros(len(gradient), len(gradient), dtype=b.dtype)
        hessian[0, 0] = own @ own + alpha * along**2
        hessian[0, 1:] = torch.cat([away + c * own, 2.0 * alpha * c * along * self.u])
        hessian[1:, 0] = hessian[0, 1:]
        hessian[1 : 1 + d1, 1 : 1 + d1] = c**2 * torch.eye(d1, dtype=b.dtype)
        hessian[1 + d1 :, 1 + d1 :] = alpha * c**2 * torch.outer(self.u, self.u)
        return gradient, hessian

    def outlier_losses(self, c: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of the two kinds of outliers, with x = 0: 1/2 (+-m c b_o u - m/2)^2, m the length of an outlier."""
        along = self.signal * c * (b[len(self.beta) :] @ self.u)
        own = 0.5 * self.signal
        return 0.5 * (along - own).square(), 0.5 * (-along - own).square()


def opposing_signals(
    dimension: int = 20,
    outlier_dimension: int = 20,
    *,
    norm: float = 2.0,
    alpha: float = 50.0,
    p: float = 0.02,
    seed: int = 0,
) -> OpposingSignals:
    """Draw beta of a length `norm`, and u.

    Raises:
        ValueError: a number that is not above 0, or p above 1.
    """
    for name, value in (("dimension", dimension), ("outlier_dimension", outlier_dimension)):
        if value < 1:
            raise ValueError(f"{name}: got {value}; at least 1 is allowed")
    if not (0 < norm < math.inf and 0 < alpha < math.inf and 0 < p <= 1):
        raise ValueError(f"norm, alpha, p: got {norm}, {alpha} and {p}; finite ones above 0, and p <= 1, are allowed")
    rng = np.random.Generator(np.random.Philox(seed))
    beta, u = (torch.from_numpy(rng.standard_normal(d)) for d in (dimension, outlier_dimension))
    return OpposingSignals(norm * beta / beta.norm(), u / u.norm(), alpha, p)


def opposing(
    samples: int = 1000,
    *,
    dimension: int = 20,
    outlier_dimension: int = 20,
    norm: float = 2.0,
    alpha: float = 50.0,
    p: float = 0.02,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Samples of `OpposingSignals`: inputs [N, d1 + d2], targets [N, 1]; `test` is a fresh draw of a quarter as many.

    round(p N) samples are outliers, as many of one sign as of the other (one more of the first if odd), and come
    first. Train `TwoLayerLinear` with a squared error.

    Args:
        samples: N, at least 2.
        dimension, outlier_dimension, norm, alpha, p: as of `opposing_signals`.
        seed: of all draws.
        dtype: of inputs and targets.

    Raises:
        ValueError: a number that is not allowed.
    """
    if samples < 2 or seed < 0:
        raise ValueError(f"samples, seed: got {samples} and {seed}; at least 2 and 0 are allowed")
    problem = opposing_signals(dimension, outlier_dimension, norm=norm, alpha=alpha, p=p, seed=seed)
    rng = np.random.Generator(np.random.Philox([seed, 1]))

    def draw(count: int) -> Data:
        x = torch.from_numpy(rng.standard_normal((count, dimension)))
        signs = torch.zeros(count, dtype=torch.float64)
        outliers = round(p * count)
        signs[:outliers:2], signs[1:outliers:2] = 1.0, -1.0
        other = problem.signal * signs[:, None] * problem.u
        targets = (x @ problem.beta + 0.5 * problem.signal * signs.abs())[:, None]
        return Data(torch.cat([x, other], 1).to(dtype), targets.to(dtype))

    train, test = draw(samples), draw(max(1, samples // 4))
    return Dataset("opposing", train, test, source=f"generated from seed {seed}")
