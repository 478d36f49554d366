"""AdamP and SGDP: steps without the part that only lengthens scale-invariant weights.

    d the direction of Adam (AdamP) or the momentum (SGDP), g the gradient, w a row of weights, n its length:
    if |<g, w>| < delta |g| |w| / sqrt(n) in every row:    d <- d - w <w, d> / |w|^2,  lam <- wd_ratio lam
    p <- (1 - lr lam) p - lr d                             (SGDP: lr lam / (1 - momentum))

B. Heo, S. Chun, S. J. Oh, D. Han, S. Yun, G. Kim, Y. Uh, J.-W. Ha, "AdamP: Slowing Down the Slowdown for Momentum
Optimizers on Scale-invariant Weights", arXiv:2006.08217 (2020).

Rows are tried first as output channels (the first axis), then as the whole tensor; all rows of a view are projected or
none, by the largest cosine. Tensors of fewer than two dimensions are never projected. As in the authors' code eps
bounds the norms, and SGDP's first momentum is (1 - dampening) g, where `torch.optim.SGD` takes g.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim import kernels
from shoal.optim.adam import AdamScaling
from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import at_least
from shoal.optim.core.ops import ema_, ema_square_, may_hold, plus, plus_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.stepping import Item
from shoal.optim.core.transform import Granularity


@dataclass(frozen=True)
class NesterovScaling(AdamScaling):
    """Adam's scaling of beta1 m + (1 - beta1) g in place of m."""

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update both moments and return the scaled step."""
        m = ema_(s.m, u, c.new1)
        v = ema_square_(s.v, u, c.beta2, c.new2)
        return torch.lerp(m, u, c.new1).div_(v.sqrt().div_(c.root2).add_(c.eps).mul_(c.correction1))


@dataclass(frozen=True)
class DampedMomentum(Transform):
    """m <- mu m + (1 - dampening) u from m = 0; the step is m, or u + mu m with Nesterov's form."""

    mu: float
    dampening: float = 0.0
    nesterov: bool = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The momentum."""
        return (Slot("momentum"),)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the new update."""
        return {"new": 1.0 - self.dampening}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the momentum and return the step."""
        plus_(s.momentum.mul_(c.mu), u, c.new)
        return plus(u, s.momentum, c.mu) if self.nesterov else s.momentum


@dataclass(frozen=True)
class Projection(Transform):
    """The update without its radial part where the weights look scale-invariant, and decoupled decay.

    Attributes:
        lam: decay, times the learning rate.
        delta: how small the cosine of gradient and weights must be, times sqrt(row length).
        wd_ratio: what is left of the decay where the update is projected.
        eps: bounds the norms.
    """

    lam: float
    delta: float = 0.1
    wd_ratio: float = 0.1
    eps: float = 1e-8
    granularity: ClassVar[Granularity] = "tensor"

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """What is left of the parameter, and how much more where it is projected."""
        return {"kept": 1.0 - lr * self.lam, "more": lr * (self.lam * (1.0 - self.wd_ratio))}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Project the update, then shrink the parameter."""
        w, h = (x.reshape(p.shape[0], -1) for x in (p, g))
        along = torch.linalg.vecdot(h, w)
        lengths, slopes = (torch.linalg.vector_norm(x, dim=1) for x in (w, h))
        length, slope = torch.linalg.vector_norm(lengths), torch.linalg.vector_norm(slopes)  # of the whole
        rows = _cosine(along, slopes, lengths, c.eps).max() < c.delta / math.sqrt(w.shape[1])
        whole = _cosine(along.sum(), slope, length, c.eps) < c.delta / math.sqrt(p.numel())
        if not may_hold(rows | whole):
            p.mul_(c.kept)
            return u
        d = u.reshape(p.shape[0], -1)
        radial = torch.linalg.vecdot(d, w)
        by_rows, by_whole = radial / (lengths + c.eps).square(), radial.sum() / (length + c.eps).square()
        share = torch.where(rows, by_rows, torch.where(whole, by_whole, 0.0))
        u = (d - w * share.unsqueeze(1)).reshape(p.shape)
        p.mul_((rows | whole).to(p.dtype) * c.more + c.kept)
        return u

    def fused(self, items: Sequence[Item]) -> bool:
        """With torch's kernel for Adam, which leaves the update in scratch."""
        plan = items[0].plan
        first, *others = plan.chain
        if len(others) != 1 or type(first) is not AdamScaling or not kernels.plain(items):
            return False
        _, c, _ = items[0].scalars
        t, betas = kernels.steps(c.t), (first.beta1, first.beta2)
        for item in items:
            u, g = torch.zeros_like(item.p), -item.g if item.negate else item.g
            kernels.adam_(u, g, item.state["m"], item.state["v"], t, lr=-1.0, betas=betas, eps=first.eps)
            item.p.sub_(self.apply(u, item.p, g, State(), c), alpha=c.lr)
        return True


def _cosine(product: Tensor, x: Tensor, y: Tensor, eps: float | Tensor) -> Tensor:
    """|product| / (x y), the norms x and y not below eps."""
    return product.abs() / (torch.clamp(x, min=eps) * torch.clamp(y, min=eps))


_ABOUT = {
    "delta": Argument("bound of the cosine of gradient and weights", "a finite number >= 0", at_least(0.0)),
    "wd_ratio": Argument(
        "what is left of the decay where the step is projected", "a finite number >= 0", at_least(0.0)
    ),
}


class AdamP(Optimizer):
    """Adam with projected steps and decoupled decay; vectors are stepped as by AdamW."""

    about: ClassVar[dict[str, Argument]] = _ABOUT

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    delta: float = 0.1
    wd_ratio: float = 0.1
    nesterov: bool = False

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """The moments, then the projection."""
        beta1, beta2 = h.betas
        scaling = (NesterovScaling if h.nesterov else AdamScaling)(beta1, beta2, h.eps)
        return _projected(scaling, h, h.weight_decay, param)


class SGDP(Optimizer):
    """SGD with projected steps and decoupled decay, which is divided by 1 - momentum; no `lr` is published."""

    about: ClassVar[dict[str, Argument]] = _ABOUT

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    eps: float = 1e-8
    delta: float = 0.1
    wd_ratio: float = 0.1

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """The momentum, then the projection."""
        plain = not h.momentum and (h.nesterov or not h.dampening)
        direction = None if plain else DampedMomentum(h.momentum, h.dampening, h.nesterov)
        return _projected(direction, h, h.weight_decay / (1.0 - h.momentum), param)


def _projected(direction: Transform | None, h: Settings, lam: float, param: Param) -> Chain:
    first = () if direction is None else (direction,)
    if len(param.shape) < 2:
        return *decoupled(lam), *first
    return *first, Projection(lam, h.delta, h.wd_ratio, h.eps)
