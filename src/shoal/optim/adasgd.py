"""AdaSGD: Adam with one second moment for the whole model, so that turning the coordinates changes nothing.

    m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) mean(g^2)        the mean is over all coordinates
    p <- p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

J. Wang, J. Wiens, "AdaSGD: Bridging the gap between SGD and Adam", arXiv:2006.16541 (2020); as S. Xie, M. A. Mohamadi,
Z. Li, "Adam Exploits l_infinity-geometry of Loss Landscape via Coordinate-wise Adaptivity", arXiv:2410.08198 (2024),
have it.

Choices. Decay is decoupled. Parameters without a gradient do not count in the mean. v is one for all groups, and so is
its bias correction, which counts the model's steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.common import decoupled
from shoal.optim.core import Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.ops import ema_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power
from shoal.optim.core.transform import Granularity, shared


@dataclass(frozen=True)
class ScalarScaling(Transform):
    """m^ / (sqrt(v^) + eps), v one number.

    Attributes:
        beta1, beta2: of the averages.
        eps: added to the root.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    granularity: ClassVar[Granularity] = "model"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The average, the second moment, and how much of its weight is there."""
        return Slot("m"), shared("v"), shared("weight")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the new gradient, and the bias correction."""
        return {"new1": 1.0 - self.beta1, "correction1": one_minus_power(self.beta1, t)}

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """Squares, and how many."""
        squares = u.square().sum(dtype=torch.float64)
        return {"squares": squares, "count": torch.full_like(squares, u.numel())}

    def settle(self, s: State, c: Scalars) -> dict[str, Tensor]:
        """Take in the mean square."""
        s.v.mul_(self.beta2).add_(c.squares / c.count * (1.0 - self.beta2))
        s.weight.mul_(self.beta2).add_(1.0 - self.beta2)
        return {"size": (s.v / s.weight).sqrt() + self.eps}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the average and return the scaled step; 0 as long as no gradient was anything else."""
        step = ema_(s.m, u, c.new1) / (c.correction1 * c.size).to(u.dtype)
        return torch.where(c.size > 0, step, 0.0)


class AdaSGD(Optimizer):
    """AdaSGD: momentum at a rate for the whole model. One buffer of state."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the scaled average."""
        beta1, beta2 = h.betas
        return *decoupled(h.weight_decay), ScalarScaling(beta1, beta2, h.eps)
