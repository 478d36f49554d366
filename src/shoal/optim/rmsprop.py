"""RMSProp: the gradient over its root mean square, or over its standard deviation, and then momentum.

    v <- alpha v + (1 - alpha) g^2        centered: a <- alpha a + (1 - alpha) g, and v - a^2 below the root
    b <- momentum b + g / (sqrt(v) + eps)        p <- p - lr b

T. Tieleman, G. Hinton, "Lecture 6.5: RMSProp", Coursera (2012); centered: A. Graves, "Generating Sequences With
Recurrent Neural Networks", arXiv:1308.0850 (2013).

As in torch eps is beside the root. Where rounding makes v - a^2 negative it is 0 here, and a NaN there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shoal.optim.common import Momentum, coupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Quotient, Scalars, Slot, State
from shoal.optim.core.arguments import SHARED, flag
from shoal.optim.core.ops import ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar


@dataclass(frozen=True)
class RMSScaling(Quotient):
    """u / (sqrt(v) + eps), or u / (sqrt(v - a^2) + eps)."""

    alpha: float = 0.99
    eps: float = 1e-8
    centered: bool = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The mean square, and the mean if it is centered."""
        return Slot("v"), *((Slot("mean"),) if self.centered else ())

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the new gradient."""
        return {"new": 1.0 - self.alpha}

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Update the means and return the step as a fraction."""
        v = ema_square_(s.v, u, c.alpha, c.new)
        if not self.centered:
            return u, v.sqrt().add_(c.eps)
        a = ema_(s.mean, u, c.new)
        return u, v.addcmul(a, a, value=-1.0).clamp_min_(0.0).sqrt_().add_(c.eps)


class RMSProp(Optimizer):
    """RMSProp, as `torch.optim.RMSprop`; `weight_decay` adds to the gradient (L2)."""

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    about: ClassVar[dict[str, Argument]] = {
        "alpha": Argument("decay rate of the mean square", "a number in [0, 1)", SHARED["momentum"].check),
        "centered": Argument("divide by the standard deviation", "True or False", flag),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, the scaling, then the momentum."""
        momentum = (Momentum(h.momentum),) if h.momentum else ()
        return *coupled(h.weight_decay), RMSScaling(h.alpha, h.eps, h.centered), *momentum
