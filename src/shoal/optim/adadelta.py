"""Adadelta: steps in the parameter's own units, by the root mean square of earlier steps over that of gradients.

    v <- rho v + (1 - rho) g^2        d = sqrt(w + eps) / sqrt(v + eps) g        w <- rho w + (1 - rho) d^2
    p <- p - lr d

M. D. Zeiler, "ADADELTA: An Adaptive Learning Rate Method", arXiv:1212.5701 (2012). lr is 1 there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shoal.optim.common import coupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import SHARED, above
from shoal.optim.core.ops import ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar


@dataclass(frozen=True)
class DeltaScaling(Transform):
    """sqrt((w + eps) / (v + eps)) u."""

    rho: float = 0.9
    eps: float = 1e-6

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Mean squares of gradients and of steps."""
        return Slot("v"), Slot("steps")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the new gradient, and of the new step."""
        return {"new": 1.0 - self.rho}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update both and return the step."""
        v = ema_square_(s.v, u, c.rho, c.new)
        step: Tensor = (s.steps + c.eps).div_(v + c.eps).sqrt_().mul_(u)
        ema_square_(s.steps, step, c.rho, c.new)
        return step


class Adadelta(Optimizer):
    """Adadelta, as `torch.optim.Adadelta`; `weight_decay` adds to the gradient (L2)."""

    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0

    about: ClassVar[dict[str, Argument]] = {
        "rho": Argument("decay rate of both mean squares", "a number in [0, 1)", SHARED["momentum"].check),
        "eps": Argument("sets the size of the first steps; keeps divisions finite", "a finite number > 0", above(0.0)),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, then the scaling."""
        return *coupled(h.weight_decay), DeltaScaling(h.rho, h.eps)
