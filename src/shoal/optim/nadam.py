"""NAdam: Adam with Nesterov's momentum, whose constant warms up.

    mu_t = beta1 (1 - 0.96^(t psi) / 2)        P_t = mu_1 mu_2 ... mu_t
    m <- beta1 m + (1 - beta1) g               v <- beta2 v + (1 - beta2) g^2
    p <- p - lr (mu_(t+1) m / (1 - P_(t+1)) + (1 - mu_t) g / (1 - P_t)) / (sqrt(v / (1 - beta2^t)) + eps)

T. Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop.

As in torch m itself is averaged with the constant beta1. P_t is a function of t alone and no state: its logarithm is
t ln beta1 - sum over k of (q^k + q^2k + ... + q^tk) / (k 2^k) with q = 0.96^psi.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shoal.optim import kernels
from shoal.optim.common import coupled, decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Quotient, Scalars, Slot, State
from shoal.optim.core.arguments import at_least, flag
from shoal.optim.core.ops import ema_, ema_square_, plus_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, power, sqrt
from shoal.optim.core.stepping import Item

WARM_UP = 0.96
TERMS = 54  # of the series: what is left out is below 2^-54 of its sum


@dataclass(frozen=True)
class NAdamScaling(Quotient):
    """The corrected mix of momentum and gradient over the corrected root."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    momentum_decay: float = 4e-3

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments."""
        return Slot("m"), Slot("v")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient, of gradient and momentum in the step, and v's correction."""
        mu, following = self._mu(t), self._mu(t + 1.0)
        product = momentum_product(self.beta1, self.momentum_decay, t)
        root2 = sqrt(one_minus_power(self.beta2, t))  # the correction of the second moment goes to all the others
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "of_gradient": root2 * (1.0 - mu) / (1.0 - product),
            "of_momentum": root2 * following / (1.0 - product * following),
            "least": root2 * self.eps,
        }

    def _mu(self, t: Scalar) -> Scalar:
        return self.beta1 * (1.0 - 0.5 * power(WARM_UP, t * self.momentum_decay))

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Update both moments and return the step as a fraction."""
        m = ema_(s.m, u, c.new1)
        v = ema_square_(s.v, u, c.beta2, c.new2)
        return plus_(m * c.of_momentum, u, c.of_gradient), v.sqrt().add_(c.least)

    def fused(self, items: Sequence[Item]) -> bool:
        """By torch's kernel for Adam, whose first moment is the mix of a copy of the momentum with the gradient."""
        t, c = kernels.steps(), items[0].scalars[-2]
        whole = c.of_momentum + c.of_gradient
        betas = c.of_momentum / whole, self.beta2

        def take(b: kernels.Block) -> None:
            [mix] = b.spare
            mix.copy_(ema_(b.s.m, b.u, c.new1))
            kernels.adam_(b.p, b.u, mix, b.s.v, t, lr=c.lr * whole, betas=betas, eps=c.least)

        return kernels.by_blocks(items, take, spare=1)


def momentum_product(beta1: float, decay: float, t: Scalar) -> Scalar:
    """mu_1 mu_2 ... mu_t.

    >>> round(momentum_product(0.9, 0.0, 2.0), 6)  # a constant 0.9 / 2
    0.2025
    """
    if isinstance(t, Tensor):
        return t.new_tensor([_product(beta1, decay, number) for number in t.tolist()])
    return _product(beta1, decay, t)


@functools.lru_cache(maxsize=1 << 12)
def _product(beta1: float, decay: float, t: float) -> float:
    rate = decay * math.log(WARM_UP)
    sums = (math.exp(k * rate) * _geometric(k * rate, t) / (k * 2.0**k) for k in range(TERMS, 0, -1))
    return float(power(beta1, t)) * math.exp(-math.fsum(sums))


def _geometric(rate: float, t: float) -> float:
    """1 + q + ... + q^(t-1) with q = exp(rate)."""
    return math.expm1(t * rate) / math.expm1(rate) if rate else t


class NAdam(Optimizer):
    """NAdam, as `torch.optim.NAdam`; `weight_decay` adds to the gradient (L2) unless it is to be decoupled."""

    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False

    about: ClassVar[dict[str, Argument]] = {
        "momentum_decay": Argument("psi: how fast the momentum warms up", "a finite number >= 0", at_least(0.0)),
        "decoupled_weight_decay": Argument("decay apart from the gradient", "True or False", flag),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments."""
        beta1, beta2 = h.betas
        decay = decoupled(h.weight_decay) if h.decoupled_weight_decay else coupled(h.weight_decay)
        return *decay, NAdamScaling(beta1, beta2, h.eps, h.momentum_decay)
