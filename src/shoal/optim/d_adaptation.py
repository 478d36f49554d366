"""D-Adaptation: the learning rate from a lower bound d on the distance to the solution, estimated from the gradients.

SGD, with lambda = d lr / |g_0|:

    num <- num + lambda <g, s>      s <- s + lambda g      d <- max(d, 2 num / |s|)
    x <- beta x + (1 - beta) (x0 - s)

Adam, with lambda = d lr and b = sqrt(beta2):

    num <- b num + (1 - b) lambda <g, s / (sqrt(v) + eps)>
    m <- beta1 m + (1 - beta1) lambda g      v <- beta2 v + (1 - beta2) g^2      s <- b s + (1 - b) lambda g
    x <- x - m / (sqrt(v) + eps)             d <- max(d, num / ((1 - b) |s|_1))

<g, s> has s (and v) from before this gradient, and lambda has the d from before it. Products and norms run over all
parameters. As published, moments are not corrected for their start. `growth_rate`, of the authors' package, bounds the
growth of d: it is at most that many times as large after a step as before.

A. Defazio, K. Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", ICML 2023, arXiv:2301.07733.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.common import coupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import above, at_least
from shoal.optim.core.ops import divide, ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.transform import Granularity, shared


@dataclass(frozen=True)
class FirstNorm(Transform):
    """The update over the norm of the first one, of the whole model."""

    granularity: ClassVar[Granularity] = "model"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The norm."""
        return (shared("g0"),)

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """Its square."""
        return {"gg": u.square().sum(dtype=torch.float64)}

    def settle(self, s: State, c: Scalars) -> dict[str, Tensor]:
        """Keep the first that is not 0."""
        s.g0.copy_(torch.where(s.g0 > 0, s.g0, c.gg.sqrt()))
        return {"inverse": torch.where(s.g0 > 0, 1.0 / s.g0, 0.0)}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Divide."""
        inverse: Tensor = c.inverse
        return u * inverse.to(u.dtype)


@dataclass(frozen=True)
class DAdaptedAveraging(Transform):
    """Dual averaging by the weighted sum of gradients, with d of the whole model; momentum averages its iterates."""

    beta: float = 0.0
    d0: float = 1e-6
    growth: float = math.inf
    granularity: ClassVar[Granularity] = "model"
    rated: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Where it began, the weighted sum, and d with its numerator."""
        return Slot("x0", start="parameter"), Slot("s"), shared("d", self.d0), shared("num")

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """Take in the gradient."""
        rate = s.d * c.lr
        inner = rate * (u * s.s).sum(dtype=torch.float64)
        s.s.add_(u * rate.to(u.dtype))
        return {"inner": inner, "ss": s.s.square().sum(dtype=torch.float64)}

    def settle(self, s: State, c: Scalars) -> dict[str, Tensor]:
        """Raise d."""
        s.num.add_(c.inner)
        estimate = torch.where(c.ss > 0, 2.0 * s.num / c.ss.sqrt(), 0.0)
        s.d.copy_(_raised(s.d, estimate, self.growth))
        return {}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """p - (beta p + (1 - beta) (x0 - s))."""
        step: Tensor = p - s.x0 + s.s
        return step.mul_(1.0 - c.beta)


@dataclass(frozen=True)
class DAdaptedMoments(Transform):
    """Adam's moments of gradients weighted by d lr, with d of the whole model."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    d0: float = 1e-6
    growth: float = math.inf
    granularity: ClassVar[Granularity] = "model"
    rated: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Two moments, the weighted sum, and d with its numerator."""
        return Slot("m"), Slot("v"), Slot("s"), shared("d", self.d0), shared("num")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient."""
        return {"new1": 1.0 - self.beta1, "new2": 1.0 - self.beta2, "new": 1.0 - math.sqrt(self.beta2)}

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """Take in the gradient."""
        rate = s.d * c.lr
        inner = rate * (u * divide(s.s, s.v.sqrt().add_(c.eps))).sum(dtype=torch.float64)
        weighted = u * rate.to(u.dtype)
        ema_(s.m, weighted, c.new1)
        ema_square_(s.v, u, c.beta2, c.new2)
        ema_(s.s, weighted, c.new)
        return {"inner": inner, "length": s.s.abs().sum(dtype=torch.float64)}

    def settle(self, s: State, c: Scalars) -> dict[str, Tensor]:
        """Raise d."""
        root = math.sqrt(self.beta2)
        s.num.mul_(root).add_(c.inner * (1.0 - root))
        estimate = torch.where(c.length > 0, s.num / (c.length * (1.0 - root)), 0.0)
        s.d.copy_(_raised(s.d, estimate, self.growth))
        return {}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """The step."""
        return divide(s.m, s.v.sqrt().add_(c.eps))


def _raised(d: Tensor, estimate: Tensor, growth: float) -> Tensor:
    """The larger of d and its estimate, at most `growth` times d."""
    return torch.maximum(d, torch.minimum(estimate, d * growth))


_ABOUT = {
    "d0": Argument("first estimate of the distance", "a finite number > 0", above(0.0)),
    "growth_rate": Argument(
        "largest growth of the estimate in a step",
        "a number >= 1, or infinity",
        lambda v: at_least(1.0)(v) or v == math.inf,
    ),
}


class DAdaptSGD(Optimizer):
    """SGD whose rate adapts; `lr` only carries a schedule (1 is the published value). All groups make one vector.

    The rate d lr / |g_0| does not fall by itself. Where it is large from the start on, `growth_rate` = 1.02 may help.
    `weight_decay` adds to the gradient (L2).
    """

    about: ClassVar[dict[str, Argument]] = _ABOUT

    lr: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    d0: float = 1e-6
    growth_rate: float = math.inf

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, the first norm, then the averaging."""
        return *coupled(h.weight_decay), FirstNorm(), DAdaptedAveraging(h.momentum, h.d0, h.growth_rate)


class DAdaptAdam(Optimizer):
    """Adam whose rate adapts; `lr` only carries a schedule (1 is the published value). All groups make one vector.

    `weight_decay` adds to the gradient (L2).
    """

    about: ClassVar[dict[str, Argument]] = _ABOUT

    lr: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    d0: float = 1e-6
    growth_rate: float = math.inf

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments."""
        beta1, beta2 = h.betas
        return *coupled(h.weight_decay), DAdaptedMoments(beta1, beta2, h.eps, h.d0, h.growth_rate)
