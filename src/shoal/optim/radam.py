"""RAdam: Adam whose step is rectified for the variance that 1 / sqrt(v) has while v has seen few gradients.

    rho_inf = 2 / (1 - beta2) - 1        rho = rho_inf - 2 t beta2^t / (1 - beta2^t)        m^ = m / (1 - beta1^t)
    r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
    rho > 5:    p <- p - lr r m^ sqrt(1 - beta2^t) / (sqrt(v) + eps)        otherwise:    p <- p - lr m^

L. Liu, H. Jiang, P. He, W. Chen, X. Liu, J. Gao, J. Han, "On the Variance of the Adaptive Learning Rate and Beyond",
ICLR 2020, arXiv:1908.03265 (2019).

The text tests rho > 4; the authors' code rho >= 5 and torch rho > 5, which are the same at the usual beta2, and the
default here: `rho_threshold=4.0` is the text. With beta2 <= 0.6 rho stays below both, and the rule is momentum alone.
eps and weight decay are not in the text: eps is beside the uncorrected root as in both codes, decay adds to the
gradient as in torch unless `decoupled_weight_decay=True`, as the authors have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim import kernels
from shoal.optim.common import coupled, decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Quotient, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import at_least, flag
from shoal.optim.core.ops import choose, ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, maximum, one_minus_power, power, sqrt, where
from shoal.optim.core.stepping import Item


def length(t: Scalar, beta2: float) -> Scalar:
    """rho: how many gradients the second moment stands for after t of them.

    >>> [round(length(float(t), 0.999), 4) for t in (1, 3, 5)]
    [1.0, 2.9987, 4.996]
    """
    return 2.0 / (1.0 - beta2) - 1.0 - 2.0 * t * power(beta2, t) / one_minus_power(beta2, t)


def rectification(t: Scalar, beta2: float) -> Scalar:
    """r, which rises to 1; 0 where rho is not above 4.

    >>> round(rectification(6.0, 0.999), 5)
    0.02582
    """
    limit = 2.0 / (1.0 - beta2) - 1.0
    if limit <= 4.0:
        return 0.0 * t
    rho = maximum(length(t, beta2), 4.0)
    r: Scalar = sqrt((rho - 4.0) * (rho - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * rho))
    return r


@dataclass(frozen=True)
class RAdamScaling(Quotient):
    """r m^ / (sqrt(v^) + eps) where there is enough in v; else m^, or nothing."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    rho_threshold: float = 5.0
    degenerated_to_sgd: bool = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments."""
        return Slot("m"), Slot("v")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient, which branch is taken, and the numbers of both."""
        adaptive = length(t, self.beta2) > self.rho_threshold
        correction1, root2 = one_minus_power(self.beta1, t), sqrt(one_minus_power(self.beta2, t))
        r = where(adaptive, rectification(t, self.beta2), 1.0)
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "adaptive": adaptive,
            "times": where(adaptive, root2 * r, float(self.degenerated_to_sgd)) / correction1,
        }

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Update both moments and return the step as a fraction."""
        m = ema_(s.m, u, c.new1)
        v = ema_square_(s.v, u, c.beta2, c.new2)
        return m, choose(c.adaptive, lambda: v.sqrt().add_(c.eps), lambda: torch.ones_like(v))

    def fused(self, items: Sequence[Item]) -> bool:
        """By torch's kernel for Adam, in adaptive steps."""
        c = items[0].scalars[-2]
        betas = self.beta1, self.beta2
        return c.adaptive and kernels.adam(items, betas, self.eps, times=c.times, t=kernels.ENDLESS)


@dataclass(frozen=True)
class DecayOfTakenSteps(Transform):
    """p <- (1 - lr lam) p before the steps that are taken, and not before those that are skipped."""

    lam: float
    beta2: float
    rho_threshold: float

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """What is left of the parameter."""
        return {"kept": where(length(t, self.beta2) > self.rho_threshold, 1.0 - lr * self.lam, 1.0)}

    def before(self, p: Tensor, s: State, c: Scalars) -> None:
        """Shrink the parameter."""
        p.mul_(c.kept)


class RAdam(Optimizer):
    """RAdam; with the defaults as `torch.optim.RAdam`.

    `degenerated_to_sgd=False` takes no step, and does not decay, as long as rho is not above `rho_threshold`.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    rho_threshold: float = 5.0
    degenerated_to_sgd: bool = True

    about: ClassVar[dict[str, Argument]] = {
        "decoupled_weight_decay": Argument("decay apart from the gradient", "True or False", flag),
        "rho_threshold": Argument("rho above which steps are adaptive", "a finite number >= 4", at_least(4.0)),
        "degenerated_to_sgd": Argument("step by momentum until then", "True or False", flag),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments."""
        beta1, beta2 = h.betas
        scaling = RAdamScaling(beta1, beta2, h.eps, h.rho_threshold, h.degenerated_to_sgd)
        if not h.decoupled_weight_decay:
            return *coupled(h.weight_decay), scaling
        if h.degenerated_to_sgd or not h.weight_decay:
            return *decoupled(h.weight_decay), scaling
        return DecayOfTakenSteps(h.weight_decay, beta2, h.rho_threshold), scaling
