"""MoMo: the step size from a model of the loss, linear and cut off at a lower bound f*; `lr` = alpha only caps it.

    d <- beta d + (1 - beta) g      f_ <- beta f_ + (1 - beta) f      gamma <- beta gamma + (1 - beta) <g, x>
    tau = min(alpha / rho, max(0, (1 + alpha lam) (f_ - rho f* - gamma) + <d, x>) / <d, d / D>)
    x <- (x - tau d / D) / (1 + alpha lam)

MoMo begins with d = g, f_ = f, gamma = <g, x>, and has rho = 1, D = 1. MoMoAdam begins with zeros, and has rho =
1 - beta1^t and D = sqrt(v / (1 - beta2^t)) + eps. Products run over all parameters, x is from before the step, f is the
loss of the batch that g is of: `step(loss=loss)` or `step(closure)`.

With `use_fstar` the bound is estimated on the way: lowered where the model is below it, and raised by what the step
promised, never under the one that was given.

F. Schaipp, R. Ohana, M. Eickenberg, A. Defazio, R. M. Gower, "MoMo: Momentum Models for Adaptive Learning Rates", ICML
2024, arXiv:2305.07583.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import SHARED, finite, flag
from shoal.optim.core.ops import divide, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power
from shoal.optim.core.transform import Granularity, shared


@dataclass(frozen=True)
class MomentumModel(Transform):
    """The step by the model of the loss.

    Attributes:
        beta: of the averages.
        lam: weight decay.
        lb: lower bound of the loss.
        estimates: whether the bound is estimated, from `lb` on.
    """

    beta: float = 0.9
    lam: float = 0.0
    lb: float = 0.0
    estimates: bool = False
    granularity: ClassVar[Granularity] = "model"
    rated: ClassVar[bool] = True
    needs_loss: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The averages, whether they have begun, and the bound."""
        return Slot("d"), shared("f"), shared("gamma"), shared("begun"), shared("bound", self.lb)

    def new(self, s: State, c: Scalars) -> Tensor:
        """The weight of what is new: all at first."""
        return torch.where(s.begun > 0, 1.0 - self.beta, torch.ones_like(s.begun))

    def rho(self, c: Scalars) -> Any:
        """How much of the averages' weight is there."""
        return 1.0

    def scaled(self, s: State, c: Scalars) -> Tensor:
        """d / D."""
        direction: Tensor = s.d
        return direction

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """Take in the gradient."""
        new = self.new(s, c)
        s.d.add_((u - s.d) * new.to(u.dtype))
        s.step = self.scaled(s, c)
        pairs = {"gx": (u, p), "dx": (s.d, p), "dd": (s.d, s.step)}
        return {name: (a * b).sum(dtype=torch.float64) for name, (a, b) in pairs.items()}

    def settle(self, s: State, c: Scalars) -> dict[str, Tensor]:
        """Take in the loss; the step size, and the bound."""
        new, rho = self.new(s, c), self.rho(c)
        s.f.add_((c.loss - s.f) * new)
        s.gamma.add_((c.gx - s.gamma) * new)
        s.begun.fill_(1.0)
        grown = 1.0 + c.lr * self.lam
        model = (s.f - s.gamma) * grown + c.dx
        if self.estimates:
            lowered = torch.clamp(model / (2.0 * grown * rho), min=self.lb)
            s.bound.copy_(torch.where(model < grown * rho * s.bound, lowered, s.bound))
        gap = torch.clamp(model - grown * rho * s.bound, min=0.0)
        cap = c.lr / rho + torch.zeros_like(gap)
        tau = torch.minimum(cap, torch.where(c.dd > 0, gap / c.dd, 0.0))
        if self.estimates:
            reached = (s.f + c.dx - s.gamma - 0.5 * tau * c.dd) / rho
            s.bound.copy_(torch.clamp(reached, min=self.lb))
        return {"tau": tau}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """p - (p - tau d / D) / (1 + alpha lam)."""
        step: Tensor = c.tau.to(p.dtype) * s.step
        if self.lam:
            step = (step + p * (c.lr * self.lam)) / (1.0 + c.lr * self.lam)
        return step


@dataclass(frozen=True)
class MomentumModelAdam(MomentumModel):
    """The step by the model of the loss in Adam's metric."""

    beta2: float = 0.999
    eps: float = 1e-8

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The second moment beside the others."""
        return *super().slots, Slot("v")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The averages' weights."""
        return {
            "new2": 1.0 - self.beta2,
            "weight1": one_minus_power(self.beta, t),
            "weight2": one_minus_power(self.beta2, t),
        }

    def new(self, s: State, c: Scalars) -> Tensor:
        """Always the same."""
        return torch.full_like(s.begun, 1.0 - self.beta)

    def rho(self, c: Scalars) -> Any:
        """1 - beta1^t."""
        return c.weight1

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """Take in the gradient."""
        ema_square_(s.v, u, c.beta2, c.new2)
        return super().measure(u, p, g, s, c)

    def scaled(self, s: State, c: Scalars) -> Tensor:
        """d / D."""
        return divide(s.d, (s.v / c.weight2).sqrt_().add_(c.eps))


_ABOUT = {
    "lb": Argument("lower bound of the loss", "a finite number", finite),
    "beta": SHARED["momentum"],
    "use_fstar": Argument("estimate the lower bound on the way", "True or False", flag),
}


class MoMo(Optimizer):
    """SGD with momentum under a cap `lr`; needs the loss. All groups make one vector.

    Where the loss is at or below `lb` nothing moves. With `maximize` it is minus the loss that `lb` bounds.
    """

    about: ClassVar[dict[str, Argument]] = _ABOUT

    lr: float = 1.0
    weight_decay: float = 0.0
    beta: float = 0.9
    lb: float = 0.0
    use_fstar: bool = False

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """One transform."""
        return (MomentumModel(h.beta, h.weight_decay, h.lb, h.use_fstar),)


class MoMoAdam(Optimizer):
    """Adam under a cap `lr`; needs the loss. All groups make one vector.

    Where the loss is at or below `lb` nothing moves. With `maximize` it is minus the loss that `lb` bounds.
    """

    about: ClassVar[dict[str, Argument]] = _ABOUT

    lr: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    lb: float = 0.0
    use_fstar: bool = False

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """One transform."""
        beta1, beta2 = h.betas
        return (MomentumModelAdam(beta1, h.weight_decay, h.lb, h.use_fstar, beta2, h.eps),)
