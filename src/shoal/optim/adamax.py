"""AdaMax: Adam's variant with a decaying maximum of the gradient's size in the place of its root mean square.

    m <- beta1 m + (1 - beta1) g        w <- max(beta2 w, |g| + eps)        p <- p - lr m / ((1 - beta1^t) w)

D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980 (2014), Algorithm 2.

The publication has no eps; it stands where torch has it. With `eps=0.0` an entry stays until it has seen a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from shoal.optim.common import coupled
from shoal.optim.core import Chain, Optimizer, Param, Quotient, Scalars, Slot, State
from shoal.optim.core.ops import ema_, parts
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power


@dataclass(frozen=True)
class AdaMaxScaling(Quotient):
    """m / ((1 - beta1^t) w)."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    exact: bool = False  # no eps: a maximum of 0 is allowed for

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The first moment and the decaying maximum."""
        return Slot("m"), Slot("largest")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the new gradient, and the bias correction."""
        return {"new1": 1.0 - self.beta1, "times": 1.0 / one_minus_power(self.beta1, t)}

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Update both and return the step as a fraction."""
        m = ema_(s.m, u, c.new1)
        size = u.abs() if self.exact else u.abs().add_(c.eps)
        largest: Tensor = s.largest.mul_(c.beta2).clamp_min_(size)
        return parts(m, largest) if self.exact else (m, largest)


class AdaMax(Optimizer):
    """AdaMax, as `torch.optim.Adamax`; `weight_decay` adds to the gradient (L2)."""

    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, then the scaling."""
        beta1, beta2 = h.betas
        return *coupled(h.weight_decay), AdaMaxScaling(beta1, beta2, h.eps, not h.eps)
