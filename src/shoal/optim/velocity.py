"""Momentum with the learning rate inside the buffer, and the correction it needs when the rate changes.

    Momentum (common.py):      u <- mu u + g                              p <- p - lr u
    Velocity:                  v <- mu v + lr g                           p <- p - v
    CorrectedVelocity:         v <- mu (lr_t / lr_{t-1}) v + lr_t g       p <- p - v

The first two agree while the rate is constant. Where it changes, Velocity goes on with steps of the old size; the
correction keeps v = lr u, and with it the path of Momentum, which needs none.
P. Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, arXiv:1706.02677, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.core import Scalars, Slot, State, Transform
from shoal.optim.core.ops import plus_


@dataclass(frozen=True)
class Velocity(Transform):
    """Heavy ball with the rate inside, uncorrected."""

    mu: float
    rated: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The velocity."""
        return (Slot("velocity"),)

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the velocity, which is the step."""
        return plus_(s.velocity.mul_(c.mu), u, c.lr)


@dataclass(frozen=True)
class CorrectedVelocity(Transform):
    """Heavy ball with the rate inside and corrected.

    A warm-up from 0 forgets the velocity: the factor lr_t / lr_{t-1} has no value there.
    """

    mu: float
    rated: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The velocity, and the rate it was last given."""
        return Slot("velocity"), Slot("velocity_lr")

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Bring the velocity to the new rate, then update it."""
        before = s.velocity_lr
        change = torch.where(before > 0.0, c.lr / before, 1.0)
        before.mul_(0.0).add_(c.lr)
        return plus_(s.velocity.mul_(change).mul_(c.mu), u, c.lr)
