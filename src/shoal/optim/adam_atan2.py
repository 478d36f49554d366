"""Adam-atan2: Adam with atan2 for the division, so that there is no eps and no scale of the gradient matters.

    m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
    p <- (1 - lr lam) p - lr a atan2(m / (1 - beta1^t), b sqrt(v / (1 - beta2^t)))        atan2(0, 0) = 0

K. Everett, L. Xiao, M. Wortsman, A. A. Alemi, R. Novak, P. J. Liu, I. Gur, J. Sohl-Dickstein, L. P. Kaelbling, J. Lee,
J. Pennington, "Scaling Exponents Across Parameterizations and Optimizers", arXiv:2407.05872 (2024).

Gradients are finite here, and a root below the smallest normal number of the dtype (1e-38 in float32) counts as that.

Choices: a = b = 1 and Adam's numbers are the default; a = 4 / pi makes a step lr long where |m^| = sqrt(v^). The decay
is AdamW's. No step is longer than lr a pi / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim import kernels
from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import above
from shoal.optim.core.ops import ema_, ema_square_, over
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, sqrt
from shoal.optim.core.stepping import Item


@dataclass(frozen=True)
class Atan2Scaling(Transform):
    """Adam's moments with bias correction: a atan2(m^, b sqrt(v^))."""

    beta1: float = 0.9
    beta2: float = 0.999
    a: float = 1.0
    b: float = 1.0

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments."""
        return Slot("m"), Slot("v")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Weights of the new gradient, and b with both corrections: atan2 takes a common factor of its arguments."""
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "across": self.b * one_minus_power(self.beta1, t) / sqrt(one_minus_power(self.beta2, t)),
        }

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update both moments and return the angle: that of a quotient, since the root is not negative."""
        m = ema_(s.m, u, c.new1)
        v = ema_square_(s.v, u, c.beta2, c.new2)
        return over(m, v.sqrt().mul_(c.across).clamp_min_(torch.finfo(v.dtype).tiny)).atan_().mul_(c.a)

    def fused(self, items: Sequence[Item]) -> bool:
        """By torch's kernel for Adam, which takes both moments and leaves their quotient in scratch.

        Its eps is added to the root, where the rule has a lower bound. It does not show beside any root but 0.
        """
        c = items[0].scalars[-2]
        t, betas = kernels.steps(c.t), (self.beta1, self.beta2)
        scale = float(self.b * one_minus_power(self.beta1, c.t))
        eps = torch.finfo(items[0].p.dtype).tiny / scale

        def take(b: kernels.Block) -> None:
            [ratio] = b.spare
            kernels.adam_(ratio.zero_(), b.u, b.s.m, b.s.v, t, lr=-1.0 / self.b, betas=betas, eps=eps)
            b.p.sub_(ratio.atan_(), alpha=c.lr * self.a)

        return 1e-6 <= scale <= 1.0 and kernels.by_blocks(items, take, spare=1)


class AdamAtan2(Optimizer):
    """Adam without eps; weight decay as AdamW's."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    a: float = 1.0
    b: float = 1.0

    about: ClassVar[dict[str, Argument]] = {
        "a": Argument("factor of the angle", "a finite number > 0", above(0.0)),
        "b": Argument("factor of the root of the second moment inside atan2", "a finite number > 0", above(0.0)),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the angle."""
        beta1, beta2 = h.betas
        return *decoupled(h.weight_decay), Atan2Scaling(beta1, beta2, h.a, h.b)
