"""AMSGrad, which divides by the largest second moment so far, and AdamNC, whose second moment is the mean of all.

    m <- beta1_t m + (1 - beta1_t) g        v <- beta2 v + (1 - beta2) g^2        w <- max(w, v)
    p <- project(p - lr_t m / sqrt(w))
    AdamNC: beta2_t = 1 - 1 / t, and v in the place of w

S. J. Reddi, S. Kale, S. Kumar, "On the Convergence of Adam and Beyond", ICLR 2018, arXiv:1904.09237.

The publication has no bias correction and no eps, and analyses lr_t = lr / sqrt(t) and beta1_t = beta1 lam^(t-1). The
defaults are `torch.optim.Adam(amsgrad=True)`; `AMSGrad(params, eps=0.0, bias_correction=False, sqrt_decay=True)` is the
publication. Both corrections come after the maximum. That of m is exact for a falling beta1_t too: the weights in m sum
to 1 - beta1_1 ... beta1_t. The projection onto a box, in the norm weighted by sqrt(w), is clipping. Without eps an
entry stays where it is until it has seen a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim import kernels
from shoal.optim.common import coupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Quotient, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import SHARED, flag
from shoal.optim.core.ops import divide_parts, ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, exp, one_minus_power, power, sqrt
from shoal.optim.core.stepping import Item


@dataclass(frozen=True)
class AMSGradScaling(Quotient):
    """m / (sqrt(max v) + eps), with Adam's corrections or without, and over sqrt(t) if told."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    bias_correction: bool = True
    sqrt_decay: bool = False
    beta1_decay: float = 1.0
    exact: bool = False  # no eps: a root of 0 is allowed for

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments, and the largest second one."""
        return Slot("m"), Slot("v"), Slot("v_max")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient, and all corrections in one."""
        slowing = sqrt(t) if self.sqrt_decay else 1.0
        root2 = sqrt(one_minus_power(self.beta2, t)) if self.bias_correction else 1.0
        weights = 1.0 - _product(self.beta1, self.beta1_decay, t) if self.bias_correction else 1.0
        return {
            "new1": 1.0 - self.beta1 * power(self.beta1_decay, t - 1.0),
            "new2": 1.0 - self.beta2,
            "times": root2 / (weights * slowing),
            "least": root2 * self.eps,
        }

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Update the moments and return the step as a fraction."""
        m = ema_(s.m, u, c.new1)
        v_max: Tensor = s.v_max.clamp_min_(ema_square_(s.v, u, c.beta2, c.new2))
        return divide_parts(m, v_max.sqrt()) if self.exact else (m, v_max.sqrt().add_(c.least))

    def fused(self, items: Sequence[Item]) -> bool:
        """By torch's kernel, where the rule is torch's."""
        own = self.exact or self.sqrt_decay or self.beta1_decay != 1.0 or not self.bias_correction
        return not own and kernels.adam(items, (self.beta1, self.beta2), self.eps, largest="v_max")


@dataclass(frozen=True)
class AdamNCScaling(Quotient):
    """m / (sqrt(t v) + sqrt(t) eps), with v the mean of all squares."""

    beta1: float = 0.9
    eps: float = 1e-8
    beta1_decay: float = 1.0
    exact: bool = False  # no eps: a root of 0 is allowed for

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments."""
        return Slot("m"), Slot("v")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient, and sqrt(t)."""
        new2 = 1.0 / t
        new1 = 1.0 - self.beta1 * power(self.beta1_decay, t - 1.0)
        return {"new1": new1, "new2": new2, "kept2": 1.0 - new2, "times": 1.0 / sqrt(t)}

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Update both moments and return the step as a fraction."""
        m = ema_(s.m, u, c.new1)
        v = ema_square_(s.v, u, c.kept2, c.new2)
        return divide_parts(m, v.sqrt()) if self.exact else (m, v.sqrt().add_(c.eps))

    def fused(self, items: Sequence[Item]) -> bool:
        """By torch's kernel for Adam, without its corrections."""
        c = items[0].scalars[-2]
        betas = 1.0 - c.new1, c.kept2
        return not self.exact and kernels.adam(items, betas, self.eps, times=c.times, t=kernels.ENDLESS)


@dataclass(frozen=True)
class Box(Transform):
    """Clip the stepped parameter to [low, high]."""

    low: float
    high: float

    def after(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> None:
        """Clip."""
        torch.clamp_(p, c.low, c.high)


def _product(beta1: float, decay: float, t: Scalar) -> Scalar:
    """beta1_1 beta1_2 ... beta1_t = beta1^t decay^(t (t - 1) / 2)."""
    return power(beta1, t) * exp(0.5 * t * (t - 1.0) * math.log(decay)) if decay < 1.0 else power(beta1, t)


def _is_box(value: Any) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    low, high = (float(v) for v in value)
    return low < high


BETA1_DECAY = Argument("what beta1 is multiplied by at each step", "a number in (0, 1]", lambda v: 0.0 < v <= 1.0)
BOX = Argument("bounds of every entry", "None or two rising numbers", lambda v: v is None or _is_box(v))


class AMSGrad(Optimizer):
    """AMSGrad; with the defaults as `torch.optim.Adam(amsgrad=True)`. `weight_decay` adds to the gradient (L2).

    `bias_correction=False`, `sqrt_decay=True` (lr_t = lr / sqrt(t)) and `eps=0.0` are the publication's form,
    `beta1_decay` its lam, and `box=(low, high)` its feasible set.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    bias_correction: bool = True
    sqrt_decay: bool = False
    beta1_decay: float = 1.0
    box: tuple[float, float] | None = None

    about: ClassVar[dict[str, Argument]] = {
        "bias_correction": Argument("remove the bias of both moments", "True or False", flag),
        "sqrt_decay": Argument("divide the learning rate by sqrt(t)", "True or False", flag),
        "beta1_decay": BETA1_DECAY,
        "box": BOX,
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, then the moments, then the projection."""
        beta1, beta2 = h.betas
        scaling = AMSGradScaling(beta1, beta2, h.eps, h.bias_correction, h.sqrt_decay, h.beta1_decay, not h.eps)
        return *coupled(h.weight_decay), scaling, *_projection(h.box)


class AdamNC(Optimizer):
    """The publication's other way to converge: beta2 = 1 - 1 / t and lr / sqrt(t); without momentum it is Adagrad."""

    lr: float = 1e-3
    beta1: float = 0.9
    eps: float = 1e-8
    weight_decay: float = 0.0
    beta1_decay: float = 1.0
    box: tuple[float, float] | None = None

    about: ClassVar[dict[str, Argument]] = {
        "beta1": Argument("decay rate of the first moment", "a number in [0, 1)", SHARED["momentum"].check),
        "beta1_decay": BETA1_DECAY,
        "box": BOX,
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, then the moments, then the projection."""
        scaling = AdamNCScaling(h.beta1, h.eps, h.beta1_decay, not h.eps)
        return *coupled(h.weight_decay), scaling, *_projection(h.box)


def _projection(box: tuple[float, float] | None) -> Chain:
    return () if box is None else (Box(float(box[0]), float(box[1])),)
