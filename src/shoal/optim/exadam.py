"""EXAdam: bias corrections that look at the other moment, and the present gradient once more.

    m <- beta1 m + (1 - beta1) g                      v <- beta2 v + (1 - beta2) g^2
    d1 = 1 + v / (v + eps) beta2^t                    d2 = 1 + m^2 / (m^2 + eps) beta1^t
    m~ = m d1 / (1 - beta1^t)                         v~ = v d2 / (1 - beta2^t)             g~ = g d1 / (1 - beta1^t)
    p <- (1 - lr lam) p - lr (m~ + g~) / (sqrt(v~) + eps)

A. M. Adly, "EXAdam: The Power of Adaptive Cross-Moments", arXiv:2412.20302 (2024).

This is the second version of the publication, and the author's present code. In the first version the rate grows:
lr ln(sqrt(2) sqrt(t + 1)), which is `dynamic_step_size=True`. The decay is the code's, by the plain lr in either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim import kernels
from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Quotient, Scalars, Slot, State
from shoal.optim.core.arguments import flag
from shoal.optim.core.ops import ema_, ema_square_, plus_ratio, square_plus
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, log, one_minus_power, power, sqrt
from shoal.optim.core.stepping import Item


@dataclass(frozen=True)
class CrossMomentScaling(Quotient):
    """(m~ + g~) / (sqrt(v~) + eps)."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    dynamic_step_size: bool = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments."""
        return Slot("m"), Slot("v")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient, and all corrections in one.

        1 + x / (x + eps) beta^t = (1 + beta^t) (1 - share / (x + eps)): the last factor is what depends on the entry.
        """
        growth = 0.5 * log(2.0 * (t + 1.0)) if self.dynamic_step_size else 1.0
        root2 = sqrt(one_minus_power(self.beta2, t))
        left1, left2 = power(self.beta1, t), power(self.beta2, t)
        growth = growth / one_minus_power(self.beta1, t)
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "share1": -self.eps * left1 / (1.0 + left1),
            "share2": -self.eps * left2 / (1.0 + left2),
            "least": root2 * self.eps / sqrt(1.0 + left1),
            "times": growth * root2 * (1.0 + left2) / sqrt(1.0 + left1),
        }

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Update both moments and return the step as a fraction."""
        return self._parts(u, ema_(s.m, u, c.new1), ema_square_(s.v, u, c.beta2, c.new2), c)

    def _parts(
        self, u: Tensor, m: Tensor, v: Tensor, c: Scalars, out: Sequence[Tensor | None] = (None, None, None)
    ) -> tuple[Tensor, Tensor]:
        squares, w = square_plus(m, c.eps, out[0]), torch.add(m, u, out=out[1])
        root = plus_ratio(v, v, squares, c.share1).sqrt_().add_(c.least)
        return plus_ratio(w, w, torch.add(v, c.eps, out=out[2]), c.share2), root

    def fused(self, items: Sequence[Item]) -> bool:
        """With torch's kernel for Adam, which takes the moments."""
        t, c, betas = kernels.steps(), items[0].scalars[-2], (self.beta1, self.beta2)

        def take(b: kernels.Block) -> None:
            kernels.moments_(b.u, b.s.m, b.s.v, t, b.spare[0], betas)
            b.p.addcdiv_(*self._parts(b.u, b.s.m, b.s.v, c, b.spare), value=-c.lr * c.times)

        return kernels.by_blocks(items, take, spare=3)


class EXAdam(Optimizer):
    """EXAdam; `weight_decay` is decoupled.

    The first steps are large, about 16 lr with the default betas (Adam's are lr), and later ones up to twice Adam's: a
    smaller `lr`, or a warm-up, makes them comparable.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    dynamic_step_size: bool = False

    about: ClassVar[dict[str, Argument]] = {
        "dynamic_step_size": Argument("let the rate grow with ln t, as in the first version", "True or False", flag),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments."""
        beta1, beta2 = h.betas
        return *decoupled(h.weight_decay), CrossMomentScaling(beta1, beta2, h.eps, h.dynamic_step_size)
