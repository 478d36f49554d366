"""RMSProp: the gradient over its root mean square, or over its standard deviation, and then momentum.

    v <- alpha v + (1 - alpha) g^2        centered: a <- alpha a + (1 - alpha) g, and v - a^2 below the root
    b <- momentum b + g / (sqrt(v) + eps)        p <- p - lr b

T. Tieleman, G. Hinton, "Lecture 6.5: RMSProp", Coursera (2012); centered: A. Graves, "Generating Sequences With
Recurrent Neural Networks", arXiv:1308.0850 (2013).

As in torch eps is beside the root. Where rounding makes v - a^2 negative it is 0 here, and a NaN there. With
`eps_in_root` the step is g / sqrt(v + eps), and `v0` is the mean square before the first step, as in

Q. Zhang, Y. Zhou, S. Zou, "Convergence Guarantees for RMSProp and Adam in Generalized-smooth Non-convex Optimization
with Affine Noise Variance", arXiv:2404.01436 (2024): mean gradients of the order of epsilon after a number of steps of
the order of epsilon^-4, if the rate and 1 - alpha go with epsilon^2, as `stationary` sets them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shoal.optim import kernels
from shoal.optim.adam import Adam
from shoal.optim.common import Momentum, coupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Quotient, Scalars, Slot, State
from shoal.optim.core.arguments import SHARED, above, flag
from shoal.optim.core.ops import ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.stepping import Item


@dataclass(frozen=True)
class RMSScaling(Quotient):
    """u / (sqrt(v) + eps), or u / (sqrt(v - a^2) + eps)."""

    alpha: float = 0.99
    eps: float = 1e-8
    centered: bool = False
    eps_in_root: bool = False
    v0: float = 0.0

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The mean square, and the mean if it is centered."""
        return Slot("v", start=self.v0), *((Slot("mean"),) if self.centered else ())

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the new gradient."""
        return {"new": 1.0 - self.alpha}

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Update the means and return the step as a fraction."""
        v = ema_square_(s.v, u, c.alpha, c.new)
        if not self.centered:
            return u, v.add(c.eps).sqrt_() if self.eps_in_root else v.sqrt().add_(c.eps)
        a = ema_(s.mean, u, c.new)
        variance = v.addcmul(a, a, value=-1.0).clamp_min_(0.0)
        return u, variance.add_(c.eps).sqrt_() if self.eps_in_root else variance.sqrt_().add_(c.eps)

    def fused(self, items: Sequence[Item]) -> bool:
        """By torch's kernel for Adam, whose first moment is the gradient if beta1 = 0."""
        t, lr = kernels.steps(), items[0].scalars[-2].lr

        def take(b: kernels.Block) -> None:
            [m] = b.spare
            kernels.adam_(b.p, b.u, m.zero_(), b.s.v, t, lr=lr, betas=(0.0, self.alpha), eps=self.eps)

        return not (self.centered or self.eps_in_root) and kernels.by_blocks(items, take, spare=1)


class RMSProp(Optimizer):
    """RMSProp, as `torch.optim.RMSprop`; `weight_decay` adds to the gradient (L2)."""

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    eps_in_root: bool = False
    v0: float = 0.0

    about: ClassVar[dict[str, Argument]] = {
        "alpha": Argument("decay rate of the mean square", "a number in [0, 1)", SHARED["momentum"].check),
        "centered": Argument("divide by the standard deviation", "True or False", flag),
        **{name: Adam.about[name] for name in ("eps_in_root", "v0")},
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, the scaling, then the momentum."""
        momentum = (Momentum(h.momentum),) if h.momentum else ()
        scaling = RMSScaling(h.alpha, h.eps, h.centered, h.eps_in_root, h.v0)
        return *coupled(h.weight_decay), scaling, *momentum


@dataclass(frozen=True)
class Stationary:
    """Settings that lead to gradients of the size epsilon.

    Attributes:
        lr: learning rate, of order epsilon^2.
        beta2: decay rate of the second moment (RMSProp's alpha); 1 - beta2 is of order epsilon^2.
        steps: of order epsilon^-4.
    """

    lr: float
    beta2: float
    steps: int


def stationary(epsilon: float, *, lr: float = 1.0, decay: float = 0.5, steps: float = 40.0) -> Stationary:
    """The scaling rule of RMSProp and Adam under generalised smoothness and affine noise.

    lr = c_lr epsilon^2, 1 - beta2 = c_decay epsilon^2, steps = c_steps / epsilon^4, with constants of the problem. The
    analysis is of `RMSProp(lr, alpha=beta2, eps=zeta, eps_in_root=True, v0=...)`, and of
    `Adam(lr, betas=(beta1, beta2), eps=zeta, eps_in_root=True, bias_correction=False, v0=...)` with beta1 below
    sqrt(beta2), where zeta and v0 > 0 and beta1 stay the same.

    Args:
        epsilon: wanted size of the gradient, > 0.
        lr, decay, steps: c_lr, c_decay and c_steps, > 0.

    Raises:
        ValueError: an argument is not above 0, or so large that beta2 would be negative.

    >>> stationary(0.1)
    Stationary(lr=0.010000000000000002, beta2=0.995, steps=400000)
    """
    for name, value in (("epsilon", epsilon), ("lr", lr), ("decay", decay), ("steps", steps)):
        if not above(0.0)(value):
            raise ValueError(f"{name}: got {value}; a finite number > 0 is allowed")
    if decay * epsilon**2 > 1.0:
        raise ValueError(f"epsilon: got {epsilon}; at most {decay**-0.5:.3g} is allowed with decay = {decay}")
    return Stationary(lr * epsilon**2, 1.0 - decay * epsilon**2, math.ceil(steps / epsilon**4 * (1.0 - 1e-12)))
