"""NovoGrad: momentum of gradients that are divided by a moving norm, one number a tensor.

    v <- |g|^2 at first, then beta2 v + (1 - beta2) |g|^2
    m <- beta1 m + (g / (sqrt(v) + eps) + lam p)
    p <- p - lr m

B. Ginsburg, P. Castonguay, O. Hrinchuk, O. Kuchaiev, V. Lavrukhin, R. Leary, J. Li, H. Nguyen, Y. Zhang, J. M. Cohen,
"Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks", arXiv:1905.11286 (2019).

"At first" lasts as long as v is zero, so that a first gradient of zeros does no harm; eps is there in the first step
too. Averaging scales the first bracket as well. Both are as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import flag
from shoal.optim.core.ops import ema_, plus_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.transform import Granularity


@dataclass(frozen=True)
class NormalisedMomentum(Transform):
    """Momentum of u / (sqrt(v) + eps) + lam p, with v the moving squared norm of u.

    Attributes:
        averaged: whether what is new counts 1 - beta1 times.
        largest: whether to divide by the largest v so far.
        decays: whether lam p is added at all.
    """

    beta1: float
    beta2: float
    eps: float
    lam: float
    averaged: bool = False
    largest: bool = False
    decays: bool = True
    granularity: ClassVar[Granularity] = "tensor"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The momentum, and one number, or two."""
        one = (Slot("v", shape=lambda shape: ()),)
        return Slot("m"), *one, *((Slot("v_max", shape=lambda shape: ()),) if self.largest else ())

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of what is new."""
        new = 1.0 - self.beta1 if self.averaged else 1.0
        return {"new1": new, "new2": 1.0 - self.beta2, "decay": new * self.lam}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the norm and the momentum, which is the step."""
        square = torch.linalg.vector_norm(u).square()
        v = s.v.copy_(torch.where(s.v == 0, square, ema_(s.v.clone(), square, c.new2)))
        if self.largest:
            v = s.v_max.copy_(torch.maximum(s.v_max, v))
        plus_(s.m.mul_(c.beta1), u, (v.sqrt() + c.eps).reciprocal() * c.new1)
        if self.decays:
            plus_(s.m, p, c.decay)
        return s.m  # type: ignore[no-any-return]


class NovoGrad(Optimizer):
    """NovoGrad; `weight_decay` enters the momentum. The momentum is a sum: the rate is in effect lr / (1 - beta1)."""

    about: ClassVar[dict[str, Argument]] = {
        "grad_averaging": Argument("count what is new in the momentum 1 - beta1 times", "True or False", flag),
    }

    lr: float = 1e-2
    betas: tuple[float, float] = (0.95, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_averaging: bool = False
    amsgrad: bool = False

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """One transform."""
        beta1, beta2 = h.betas
        lam = h.weight_decay
        return (NormalisedMomentum(beta1, beta2, h.eps, lam, h.grad_averaging, h.amsgrad, decays=lam > 0.0),)
