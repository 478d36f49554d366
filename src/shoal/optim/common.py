"""Transforms that methods share: weight decay, momentum, and a wide copy of parameters of low precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.optim.core import Param, Scalars, Slot, State, Transform
from shoal.optim.core.ops import plus, plus_
from shoal.optim.core.plan import compute_dtype
from shoal.optim.core.scalars import Scalar, where


@dataclass(frozen=True)
class WeightDecay(Transform):
    """Coupled decay (L2): u + lam p."""

    lam: float

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Add lam p to the update."""
        return plus(u, p, c.lam)


@dataclass(frozen=True)
class DecoupledDecay(Transform):
    """Decoupled decay: p <- (1 - lr lam) p before the step."""

    lam: float

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """What is left of the parameter."""
        return {"kept": 1.0 - lr * self.lam}

    def before(self, p: Tensor, s: State, c: Scalars) -> None:
        """Shrink the parameter."""
        p.mul_(c.kept)


@dataclass(frozen=True)
class DecayAfter(Transform):
    """Decoupled decay of the stepped parameter: p <- (1 - lr lam) p after the step."""

    lam: float

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """What is left of the parameter."""
        return {"kept": 1.0 - lr * self.lam}

    def after(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> None:
        """Shrink the parameter."""
        p.mul_(c.kept)


@dataclass(frozen=True)
class Momentum(Transform):
    """Heavy ball: m <- mu m + (1 - dampening) u; the step is m, or u + mu m with Nesterov's form.

    As in `torch.optim.SGD` the first momentum is u itself, whatever the dampening.
    """

    mu: float
    nesterov: bool = False
    dampening: float = 0.0

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The momentum."""
        return (Slot("momentum"),)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the new update."""
        return {"new": where(t > 1.0, 1.0 - self.dampening, 1.0) if self.dampening else 1.0}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the momentum and return the step."""
        plus_(s.momentum.mul_(c.mu), u, c.new)
        return plus(u, s.momentum, c.mu) if self.nesterov else s.momentum


@dataclass(frozen=True)
class WidePrecision(Transform):
    """A copy of the parameter in the dtype of the computation, which is what moves; the parameter is it, rounded.

    Entries that somebody else has changed since are taken over.

    Attributes:
        narrow: the parameter's own dtype.
    """

    narrow: torch.dtype

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The copy."""
        return (Slot("wide", start="parameter"),)

    def before(self, p: Tensor, s: State, c: Scalars) -> None:
        """Go on from the copy."""
        p.copy_(torch.where(s.wide.to(self.narrow) == p, s.wide, p))

    def after(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> None:
        """Keep what came out."""
        s.wide.copy_(p)


def widened(param: Param) -> tuple[Transform, ...]:
    """A wide copy, if the parameter is of low precision."""
    return (WidePrecision(param.dtype),) if compute_dtype(param.dtype) != param.dtype else ()


def coupled(weight_decay: float) -> tuple[Transform, ...]:
    """L2 decay, if there is any."""
    return (WeightDecay(weight_decay),) if weight_decay else ()


def decoupled(weight_decay: float) -> tuple[Transform, ...]:
    """Decoupled decay before the step, if there is any."""
    return (DecoupledDecay(weight_decay),) if weight_decay else ()
