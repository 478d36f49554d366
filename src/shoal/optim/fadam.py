"""FAdam (Fisher Adam): Adam read as natural gradient with diagonal empirical Fisher information, and mended.

    beta2_t <- beta2 (1 - beta2^(t-1)) / (1 - beta2^t)        f <- beta2_t f + (1 - beta2_t) g^2
    e <- eps min(1, RMS(g))
    n <- g / (f^power + e)        n <- n / max(1, RMS(n) / clip)        m <- beta1 m + (1 - beta1) n
    w <- p / (f^power + e)        w <- w / max(1, RMS(w) / clip)        p <- p - lr (m + lam w)

D. Hwang, "FAdam: Adam is a natural gradient optimizer using diagonal empirical Fisher information",
arXiv:2405.12807 (2024).

Choices: f equals Adam's bias-corrected second moment; m has no bias correction. e is that of the later version of the
paper (an earlier one: min(eps, 0.01 RMS(g))). What is shorter than `clip` stays as it is; public ports write
max(1, RMS) / clip, which is the same for clip = 1 only. An entry that has never had a gradient gets n = w = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import at_least
from shoal.optim.core.ops import Number, ema_, may_hold, plus, root_mean_square
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power


@dataclass(frozen=True)
class FisherScaling(Transform):
    """Momentum of the clipped natural gradient, plus the decay, preconditioned and clipped likewise."""

    granularity = "tensor"

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.001
    clip: float = 1.0
    power: float = 0.5

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Fisher information and momentum."""
        return Slot("f"), Slot("m")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of what is new."""
        return {"new1": 1.0 - self.beta1, "new2": (1.0 - self.beta2) / one_minus_power(self.beta2, t)}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update f and m and return m with the decay."""
        squares = u * u
        f = ema_(s.f, squares, c.new2)
        root = f.sqrt() if self.power == 0.5 else f.pow(c.power)
        least = squares.mean().sqrt().clamp_max(1.0) * c.eps
        divisor = root.add_(least)
        inverse = divisor.reciprocal()
        if may_hold(least < torch.finfo(p.dtype).tiny):
            inverse.masked_fill_(divisor == 0.0, 0.0)
        n = u * inverse
        m = ema_(s.m, n.div_(_excess(n, c.clip)), c.new1)
        if not self.weight_decay:
            return m
        w = inverse.mul_(p)
        return plus(m, w, c.weight_decay / _excess(w, c.clip))


def _excess(x: Tensor, bound: Number) -> Tensor:
    """By how much it is longer than the bound; 1 for what is shorter."""
    return torch.clamp(root_mean_square(x) / bound, min=1.0)


class FAdam(Optimizer):
    """FAdam, meant for losses that are means of log-probabilities. The decay is preconditioned too, not AdamW's."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.001
    clip: float = 1.0
    p: float = 0.5

    about: ClassVar[dict[str, Argument]] = {
        "clip": Argument(
            "largest root mean square of a tensor's natural gradient, and of its decay",
            "a number > 0, or infinity",
            lambda value: not isinstance(value, bool) and value > 0,
        ),
        "p": Argument("power of the Fisher information by which is divided", "a finite number >= 0", at_least(0.0)),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """The natural gradient."""
        beta1, beta2 = h.betas
        return (FisherScaling(beta1, beta2, h.eps, h.weight_decay, h.clip, h.p),)
