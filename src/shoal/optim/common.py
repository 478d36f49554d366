"""Transforms that many methods share: weight decay and momentum."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from shoal.optim.core import Scalars, Slot, State, Transform
from shoal.optim.core.ops import plus, plus_
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


def coupled(weight_decay: float) -> tuple[Transform, ...]:
    """L2 decay, if there is any."""
    return (WeightDecay(weight_decay),) if weight_decay else ()


def decoupled(weight_decay: float) -> tuple[Transform, ...]:
    """Decoupled decay before the step, if there is any."""
    return (DecoupledDecay(weight_decay),) if weight_decay else ()
