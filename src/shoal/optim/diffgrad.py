"""diffGrad: Adam times a friction that is least where the gradient changes most between steps.

    m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2        xi = 1 / (1 + exp(-|g_before - g|))
    p <- p - lr sqrt(1 - beta2^t) / (1 - beta1^t) xi m / (sqrt(v) + eps)

S. R. Dubey, S. Chakraborty, S. K. Roy, S. Mukherjee, S. K. Singh, B. B. Chaudhuri, "diffGrad: An Optimization Method
for Convolutional Neural Networks", arXiv:1909.11015 (2019).

g_before is 0 at first, and a copy, as in the authors' second code (the first kept a reference, which the next gradient
overwrites: then xi = 1/2). As there, g is what the L2 decay has been added to, and eps is beside the uncorrected root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.optim import kernels
from shoal.optim.common import coupled
from shoal.optim.core import Chain, Optimizer, Param, Quotient, Scalars, Slot, State
from shoal.optim.core.ops import ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, sqrt
from shoal.optim.core.stepping import Item


@dataclass(frozen=True)
class FrictionScaling(Quotient):
    """xi m^ / (sqrt(v^) + eps), with eps beside the uncorrected root."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments, and the gradient before."""
        return Slot("m"), Slot("v"), Slot("previous")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient, and the bias corrections in one."""
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "times": sqrt(one_minus_power(self.beta2, t)) / one_minus_power(self.beta1, t),
        }

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Update both moments, keep the gradient, and return the step as a fraction."""
        m = ema_(s.m, u, c.new1)
        v = ema_square_(s.v, u, c.beta2, c.new2)
        friction = torch.sigmoid(s.previous.sub_(u).abs_())
        s.previous.copy_(u)
        return friction.mul_(m), v.sqrt().add_(c.eps)

    def fused(self, items: Sequence[Item]) -> bool:
        """By torch's kernel for Adam, which takes both moments and leaves their quotient in scratch."""
        t, c, betas = kernels.steps(), items[0].scalars[-2], (self.beta1, self.beta2)

        def take(b: kernels.Block) -> None:
            ratio, friction = b.spare
            kernels.adam_(ratio.zero_(), b.u, b.s.m, b.s.v, t, lr=-c.times, betas=betas, eps=self.eps)
            torch.sub(b.s.previous, b.u, out=friction).abs_().sigmoid_()
            b.p.addcmul_(ratio, friction, value=-c.lr)
            b.s.previous.copy_(b.u)

        return kernels.by_blocks(items, take, spare=2)


class DiffGrad(Optimizer):
    """diffGrad; `weight_decay` adds to the gradient (L2).

    Steps are 1/2 to 1 of Adam's; where gradients are small their changes are smaller, and it is close to Adam at half
    the learning rate, which belongs beside it in a comparison.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, then the moments and the friction."""
        beta1, beta2 = h.betas
        return *coupled(h.weight_decay), FrictionScaling(beta1, beta2, h.eps)
