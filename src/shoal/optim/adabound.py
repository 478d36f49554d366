"""AdaBound and AMSBound: the rate of each entry is clipped into a band that narrows to one number: from Adam to SGD.

    m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2        AMSBound: w <- max(w, v), AdaBound: w = v
    rate = lr sqrt(1 - beta2^t) / (1 - beta1^t) / (sqrt(w) + eps)        f = final_lr (lr / first lr)
    p <- p - clip(rate, f (1 - 1 / (gamma t + 1)), f (1 + 1 / (gamma t))) m

L. Luo, Y. Xiong, Y. Liu, X. Sun, "Adaptive Gradient Methods with Dynamic Bound of Learning Rate", ICLR 2019,
arXiv:1902.09843.

This is the authors' code. The printed algorithms have no bias correction, divide the clipped rate by sqrt(t), and have
gamma = 1 - beta2 in their example: `bias_correction=False, sqrt_decay=True`. The band acts on m itself, as in both. A
schedule of lr moves the band as well; weight decay (in the code only) adds to the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim import kernels
from shoal.optim.common import coupled
from shoal.optim.core import Argument, Chain, Param, Quotient, Scalars, Slot, State
from shoal.optim.core.arguments import above, at_least, flag
from shoal.optim.core.ops import clip_, ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, sqrt
from shoal.optim.core.stepping import Item
from shoal.optim.first_rate import FromFirstRate, first_rate


@dataclass(frozen=True)
class BoundedScaling(Quotient):
    """clip(rate) m as m over a clipped root; `maximum` takes that of the largest second moment so far."""

    beta1: float
    beta2: float
    final_lr: float
    base_lr: float
    gamma: float
    eps: float
    bias_correction: bool = True
    sqrt_decay: bool = False
    maximum: bool = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments, and the largest second one."""
        return Slot("m"), Slot("v"), *((Slot("v_max"),) if self.maximum else ())

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient, the corrections, and the band of the root, which has no lr in it."""
        corrections: Scalar = 1.0
        if self.bias_correction:
            corrections = sqrt(one_minus_power(self.beta2, t)) / one_minus_power(self.beta1, t)
        final = corrections * (self.base_lr / self.final_lr if self.final_lr else math.inf)
        narrowing = self.gamma * t / (self.gamma * t + 1.0)
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "times": corrections / sqrt(t) if self.sqrt_decay else corrections,
            "least": final * narrowing,
            "most": final / narrowing,
        }

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Update the moments and return the step as a fraction."""
        m = ema_(s.m, u, c.new1)
        v = ema_square_(s.v, u, c.beta2, c.new2)
        if self.maximum:
            v = s.v_max.clamp_min_(v)
        return m, self._root(v, c)

    def _root(self, v: Tensor, c: Scalars, out: Tensor | None = None) -> Tensor:
        return clip_(torch.sqrt(v, out=out).add_(c.eps), c.least, c.most)

    def fused(self, items: Sequence[Item]) -> bool:
        """With torch's kernel for Adam, which takes the moments."""
        t, c, betas = kernels.steps(), items[0].scalars[-2], (self.beta1, self.beta2)

        def take(b: kernels.Block) -> None:
            [root] = b.spare
            largest = b.s.v_max if self.maximum else None
            kernels.moments_(b.u, b.s.m, b.s.v, t, root, betas, largest)
            b.p.addcdiv_(b.s.m, self._root(b.s.v if largest is None else largest, c, root), value=-c.lr * c.times)

        return kernels.by_blocks(items, take, spare=1)


class AdaBound(FromFirstRate):
    """AdaBound, as the authors' code; `weight_decay` adds to the gradient (L2).

    The band follows lr / `base_lr`, where `base_lr` is the first `lr` unless given.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    final_lr: float = 0.1
    gamma: float = 1e-3
    eps: float = 1e-8
    weight_decay: float = 0.0
    bias_correction: bool = True
    sqrt_decay: bool = False

    about: ClassVar[dict[str, Argument]] = {
        **FromFirstRate.about,
        "final_lr": Argument("rate to which the band narrows", "a finite number >= 0", at_least(0.0)),
        "gamma": Argument("how fast the band narrows", "a finite number > 0", above(0.0)),
        "bias_correction": Argument("remove the bias of both moments", "True or False", flag),
        "sqrt_decay": Argument("divide the clipped rate by sqrt(t)", "True or False", flag),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, then the bounded rates."""
        return *coupled(h.weight_decay), _bounded(h, maximum=False)


class AMSBound(AdaBound):
    """AdaBound whose rates are those of the largest second moments so far."""

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, then the bounded rates."""
        return *coupled(h.weight_decay), _bounded(h, maximum=True)


def _bounded(h: Settings, *, maximum: bool) -> BoundedScaling:
    beta1, beta2 = h.betas
    band = h.final_lr, first_rate(h), h.gamma
    return BoundedScaling(beta1, beta2, *band, h.eps, h.bias_correction, h.sqrt_decay, maximum)
