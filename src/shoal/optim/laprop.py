"""LaProp: the gradient is normalised first and averaged then, so that any two decay rates go together.

    n <- nu n + (1 - nu) g^2        m <- mu m + (1 - mu) lr g / (sqrt(n / (1 - nu^t)) + eps)
    p <- (1 - lam) (p - m lr / c)        c <- mu c + (1 - mu) lr, which is lr (1 - mu^t) for a constant lr

L. Ziyin, Z. T. Wang, M. Ueda, "LaProp: Separating Momentum and Adaptivity in Adam", arXiv:2002.04839 (2020).

The step is lr times an average of normalised gradients, each weighted by its own rate: this is the authors' code, and
the publication where lr is constant. c is one number for each parameter. The decay is not multiplied by lr. Their code
steps by m where lr is 0; here such a step is 0, which is the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim import kernels
from shoal.optim.core import Argument, Chain, Optimizer, Param, Rule, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import flag
from shoal.optim.core.given import NOTHING, Supplied
from shoal.optim.core.ops import Number, choose, ema_, ema_square_, plus_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, sqrt
from shoal.optim.core.stepping import Item

CENTERED_AFTER = 10  # steps, as in the authors' code


@dataclass(frozen=True)
class LaPropScaling(Transform):
    """The average of normalised gradients, as if the learning rate had always been the same: `taken` is lr / c."""

    mu: float = 0.9
    nu: float = 0.999
    eps: float = 1e-15
    amsgrad: bool = False
    centered: bool = False
    rated: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The second moment and the average; the mean if it is centered, and the largest second moment."""
        mean = (Slot("a"),) if self.centered else ()
        return Slot("n"), Slot("m"), *mean, *((Slot("n_max"),) if self.amsgrad else ())

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of what is new, and the bias corrections."""
        return {
            "new1": (1.0 - self.mu) * lr,
            "new2": 1.0 - self.nu,
            "root2": sqrt(one_minus_power(self.nu, t)),
            "late": t > CENTERED_AFTER,
            "taken": 1.0 / one_minus_power(self.mu, t),
        }

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the second moment, then the average, and return the step."""
        scaled = u / self.second_moment(u, s, c).sqrt().div_(c.root2).add_(c.eps)
        m = plus_(s.m.mul_(c.mu), scaled, c.new1)
        return m.mul(self.taken(s, c))

    def second_moment(self, u: Tensor, s: State, c: Scalars) -> Tensor:
        """What the gradient is divided by the root of; not to be changed."""
        n = ema_square_(s.n, u, c.nu, c.new2)
        if self.centered:
            a = ema_(s.a, u, c.new2)
            variance = choose(c.late, lambda: n.addcmul(a, a, value=-1.0).clamp_min_(0.0), lambda: torch.zeros_like(n))
            n = choose(c.late, lambda: s.n_max.clamp_min_(variance) if self.amsgrad else variance, lambda: s.n)
        elif self.amsgrad:
            n = s.n_max.clamp_min_(n)
        return n

    def taken(self, s: State, c: Scalars) -> Number:
        """lr / c."""
        return c.taken

    def fused(self, items: Sequence[Item]) -> bool:
        """With torch's kernel for AdamW, to which the average is a parameter whose decay leaves it mu."""
        return _fused(items, self, behind=0)


@dataclass(frozen=True)
class LaPropWithRates(LaPropScaling):
    """The same with c in a slot, for stacked peers, whose learning rates come with each step."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Those of the others, and c."""
        return *super().slots, Slot("rates", shape=lambda shape: ())

    def taken(self, s: State, c: Scalars) -> Number:
        """lr / c, after this step's lr has entered c."""
        s.rates.mul_(c.mu).add_(c.new1)
        return torch.where(s.rates > 0.0, c.lr / s.rates, 0.0)


@dataclass(frozen=True)
class FixedDecayAfter(Transform):
    """p <- (1 - lam) p after the step, whatever the learning rate."""

    lam: float

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """What is left of the parameter."""
        return {"kept": 1.0 - self.lam}

    def after(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> None:
        """Shrink the parameter."""
        p.mul_(c.kept)

    def fused(self, items: Sequence[Item]) -> bool:
        """The same as without the decay, which goes into the last pass."""
        *before, _ = items[0].plan.chain
        scaling = before[-1] if before else None
        return type(scaling) is LaPropScaling and _fused(items, scaling, behind=1)


def _fused(items: Sequence[Item], scaling: LaPropScaling, behind: int) -> bool:
    lr = items[0].scalars[-1].lr
    if scaling.centered or not lr:
        return False
    c = items[0].scalars[-2 - behind]
    kept = items[0].scalars[-2].kept if behind else 1.0
    numbers = {"lr": -c.new1, "betas": (0.0, scaling.nu), "eps": scaling.eps, "decay": -1.0 / lr}
    t = kernels.steps(c.t)

    def take(b: kernels.Block) -> None:
        [u] = b.spare
        kernels.adam_(b.s.m, b.u, u.zero_(), b.s.n, t, **numbers, largest=b.s.n_max if scaling.amsgrad else None)
        if behind:
            b.p.mul_(kept)
        b.p.sub_(b.s.m, alpha=kept * c.taken)

    return kernels.by_blocks(items, take, spare=1, behind=behind)


class LaProp(Optimizer):
    """LaProp; `weight_decay` is the share of the parameter lost at each step, not multiplied by `lr` as in AdamW.

    `betas` is (mu, nu). `centered` subtracts the squared mean gradient from the second moment, after 10 steps;
    `amsgrad` takes the largest second moment so far. Without momentum it is Adam without momentum, and without
    adaptivity (nu = 0) an average of signs.
    """

    lr: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-15
    weight_decay: float = 0.0
    amsgrad: bool = False
    centered: bool = False

    about: ClassVar[dict[str, Argument]] = {
        "weight_decay": Argument(
            "share of the parameter lost at each step", "a number in [0, 1]", lambda v: 0 <= v <= 1
        ),
        "centered": Argument("divide by the standard deviation", "True or False", flag),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """The average, then the decay after the step."""
        mu, nu = h.betas
        scaling = LaPropScaling(mu, nu, h.eps, h.amsgrad, h.centered)
        return scaling, *((FixedDecayAfter(h.weight_decay),) if h.weight_decay else ())

    @classmethod
    def rule(cls, *args: Any, **kwargs: Any) -> Rule:
        """The same method for stacked peers; it keeps c in a slot."""
        rule = super().rule(*args, **kwargs)
        return replace(rule, links=_WithRates(rule))

    def _items(self, number: int, group: dict[str, Any], supplied: Supplied = NOTHING) -> list[Item]:
        """Each parameter's c is a number in its state: with it in the scalars the rule is element-wise."""
        items = super()._items(number, group, supplied)
        lr, mu = float(group["lr"]), group["betas"][0]
        before = [item.scalars for item in items]  # alive, so that ids differ
        shared: dict[tuple[int, float], list[Scalars]] = {}
        for item, scalars in zip(items, before, strict=True):
            state: dict[str, Any] = item.state
            c = state["rates"] = mu * state.get("rates", 0.0) + (1.0 - mu) * lr
            if (id(scalars), c) not in shared:
                taken = lr / c if c > 0.0 else 0.0
                parts = zip(item.plan.chain, scalars, strict=False)
                own = [_taking(part, taken) if isinstance(link, LaPropScaling) else part for link, part in parts]
                shared[id(scalars), c] = [*own, scalars[-1]]
            item.scalars = shared[id(scalars), c]
        return items


@dataclass(frozen=True)
class _WithRates:
    """The chain of a rule, with c in a slot."""

    rule: Rule

    def __call__(self, param: Param) -> Chain:
        return tuple(
            LaPropWithRates(link.mu, link.nu, link.eps, link.amsgrad, link.centered)
            if isinstance(link, LaPropScaling)
            else link
            for link in self.rule.plan(param).chain
        )


def _taking(scalars: Scalars, taken: float) -> Scalars:
    return SimpleNamespace(**{**vars(scalars), "taken": taken})
