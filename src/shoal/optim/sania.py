"""SANIA: preconditioned steps whose length Polyak's second-order model gives; no learning rate.

    q = <g, g / B>        gap = 2 (f - f*)
    lambda = 1 - sqrt(1 - gap / q) if gap <= q, else 1
    x <- x - lr lambda g / B

f is the loss of the batch that g is of, f* a lower bound of it; q runs over all parameters. A loss below f* moves
nothing. With V the larger of eps and

    adagrad, adagrad-sqr    the sum of all g^2
    adam, adam-sqr          their corrected moving average

B is V for those without roots (-sqr), and the root of V for the others. Without roots, and with eps = 0, the way does
not depend on the scale of the inputs. eps = 0.1 is the published code's.

F. Abdukhakimov, C. Xiang, D. Kamzolov, R. M. Gower, M. Takac, "SANIA: Polyak-type Optimization Framework Leads to Scale
Invariant Stochastic Algorithms", arXiv:2312.17369 (2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import finite
from shoal.optim.core.ops import divide, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power
from shoal.optim.core.transform import Granularity


@dataclass(frozen=True)
class PolyakModel(Transform):
    """lambda u / B, with B from the sum of all squares.

    Attributes:
        root: whether B is the root of that.
        eps: floor of what the root is taken of, or of B without one.
        lb: lower bound of the loss.
    """

    root: bool = False
    eps: float = 0.1
    lb: float = 0.0
    granularity: ClassVar[Granularity] = "model"
    needs_loss: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The squares."""
        return (Slot("v"),)

    def squares(self, u: Tensor, s: State, c: Scalars) -> Tensor:
        """Take in the gradient; B, or its square, without the floor."""
        v: Tensor = s.v.add_(u * u)
        return v

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """q."""
        v = torch.clamp(self.squares(u, s, c), min=self.eps)
        s.step = divide(u, v.sqrt_() if self.root else v)
        return {"q": (u * s.step).sum(dtype=torch.float64)}

    def settle(self, s: State, c: Scalars) -> dict[str, Tensor]:
        """lambda."""
        share = 2.0 * (c.loss - self.lb) / torch.where(c.q > 0, c.q, 1.0)
        return {"length": 1.0 - torch.sqrt(1.0 - torch.clamp(share, min=0.0, max=1.0))}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Scale."""
        step: Tensor = s.step * c.length.to(p.dtype)
        return step


@dataclass(frozen=True)
class MovingPolyakModel(PolyakModel):
    """lambda u / B, with B from a moving average of squares, corrected for its start."""

    beta2: float = 0.999

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the new gradient, and the correction."""
        return {"new2": 1.0 - self.beta2, "weight2": one_minus_power(self.beta2, t)}

    def squares(self, u: Tensor, s: State, c: Scalars) -> Tensor:
        """Take in the gradient; B, or its square, without the floor."""
        v: Tensor = ema_square_(s.v, u, c.beta2, c.new2) / c.weight2
        return v


KINDS = ("adagrad-sqr", "adagrad", "adam-sqr", "adam")


class SANIA(Optimizer):
    """Polyak steps under a preconditioner; needs the loss. `lr` only scales (1 is published). Groups are one vector."""

    about: ClassVar[dict[str, Argument]] = {
        "preconditioner": Argument("what B is made of", f"one of {', '.join(KINDS)}", lambda value: value in KINDS),
        "beta2": Argument("decay rate of Adam's squares", "a number in [0, 1)", lambda v: finite(v) and 0.0 <= v < 1.0),
        "lb": Argument("lower bound of the loss", "a finite number", finite),
    }

    lr: float = 1.0
    preconditioner: str = "adagrad-sqr"
    beta2: float = 0.999
    eps: float = 0.1
    lb: float = 0.0

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """One transform."""
        root = not h.preconditioner.endswith("-sqr")
        if h.preconditioner.startswith("adagrad"):
            return (PolyakModel(root, h.eps, h.lb),)
        return (MovingPolyakModel(root, h.eps, h.lb, h.beta2),)
