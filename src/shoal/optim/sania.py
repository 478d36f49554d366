"""SANIA: preconditioned steps whose length Polyak's second-order model gives; no learning rate.

    q = <g, g / B>        gap = 2 (f - f*)
    lambda = 1 - sqrt(1 - gap / q) if gap <= q, else 1
    x <- x - lr lambda g / B

f is the loss of the batch that g is of, f* a lower bound of it; q runs over all parameters. A loss below f* moves
nothing. With V the larger of eps and

    adagrad, adagrad-sqr    the sum of all g^2
    adam, adam-sqr          their corrected moving average
    hutchinson              |D|, D the moving average of z * (H z) from the first one on, z random signs

B is V, but for adagrad and adam its root. With "newton" B is H + eps, H being the Hessian of f as in "hutchinson", and
B^-1 g comes from conjugate gradients, which stop where they meet no positive curvature. These two need a graph by which
to differentiate twice: `step(loss=loss)`. Without roots, and with eps = 0, the way does not depend on the scale of the
inputs; Newton's does not depend on any linear map of them, as far as conjugate gradients are solved (`cg_steps`).
eps = 0.1 is the published code's.

F. Abdukhakimov, C. Xiang, D. Kamzolov, R. M. Gower, M. Takac, "SANIA: Polyak-type Optimization Framework Leads to Scale
Invariant Stochastic Algorithms", arXiv:2312.17369 (2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import finite, whole
from shoal.optim.core.ops import divide, ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, where
from shoal.optim.core.transform import Granularity, seed


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

    def direction(self, u: Tensor, s: State, c: Scalars) -> Tensor:
        """B^-1 u."""
        v = torch.clamp(self.squares(u, s, c), min=self.eps)
        return divide(u, v.sqrt_() if self.root else v)

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """q."""
        s.step = self.direction(u, s, c)
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


@dataclass(frozen=True)
class HutchinsonPolyakModel(PolyakModel):
    """lambda u / B, with B from a moving average of estimates of the Hessian's diagonal."""

    beta2: float = 0.999
    given: ClassVar[tuple[str, ...]] = ("curvature",)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The average, and what the signs are drawn from."""
        return Slot("D"), seed()

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the new estimate: all at first."""
        return {"new2": where(t > 1.0, 1.0 - self.beta2, 1.0)}

    def squares(self, u: Tensor, s: State, c: Scalars) -> Tensor:
        """Take in the estimate; its average without sign."""
        if s.curvature is None:
            raise ValueError("given: got no curvature; z * (H z) in the shape of each parameter is needed")
        return ema_(s.D, s.curvature, c.new2).abs()


@dataclass(frozen=True)
class NewtonPolyakModel(PolyakModel):
    """lambda H^-1 g, eps being added to H.

    Attributes:
        cg_steps: of conjugate gradients, at most.
    """

    cg_steps: int = 20
    given: ClassVar[tuple[str, ...]] = ("newton",)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Nothing is kept."""
        return ()

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """q, of the gradient as it came."""
        if u is not g:
            raise ValueError(
                "links: got a changed gradient for Newton's direction, which is of the gradient as it came; nothing "
                "that changes it is allowed before SANIA's newton"
            )
        return super().measure(u, p, g, s, c)

    def direction(self, u: Tensor, s: State, c: Scalars) -> Tensor:
        """What was found."""
        if s.newton is None:
            raise ValueError("given: got no newton; H^-1 g in the shape of each parameter is needed")
        found: Tensor = s.newton
        return found


KINDS = ("adagrad-sqr", "adagrad", "adam-sqr", "adam", "hutchinson", "newton")


class SANIA(Optimizer):
    """Polyak steps under a preconditioner; needs the loss. `lr` only scales (1 is published). Groups are one vector.

    With "hutchinson" and "newton" it needs the loss with its graph: `step(loss=loss)` without a backward pass before.
    "newton" takes no gradients that other transforms have changed (clipping, decay). Where the loss is at or below `lb`
    nothing moves; with `maximize` it is minus the loss that `lb` bounds.
    """

    about: ClassVar[dict[str, Argument]] = {
        "preconditioner": Argument("what B is made of", f"one of {', '.join(KINDS)}", lambda value: value in KINDS),
        "beta2": Argument(
            "decay rate of Adam's squares and of Hutchinson's estimates",
            "a number in [0, 1)",
            lambda v: finite(v) and 0.0 <= v < 1.0,
        ),
        "lb": Argument("lower bound of the loss, below which nothing moves", "a finite number", finite),
        "cg_steps": Argument("steps of conjugate gradients for Newton's direction", "a whole number >= 1", whole(1)),
        "seed": Argument("of Hutchinson's signs", "a whole number >= 0", whole(0)),
    }

    lr: float = 1.0
    preconditioner: str = "adagrad-sqr"
    beta2: float = 0.999
    eps: float = 0.1
    lb: float = 0.0
    cg_steps: int = 20
    seed: int = 0

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """One transform."""
        if h.preconditioner == "hutchinson":
            return (HutchinsonPolyakModel(False, h.eps, h.lb, h.beta2),)
        if h.preconditioner == "newton":
            return (NewtonPolyakModel(False, h.eps, h.lb, h.cg_steps),)
        root = not h.preconditioner.endswith("-sqr")
        if h.preconditioner.startswith("adagrad"):
            return (PolyakModel(root, h.eps, h.lb),)
        return (MovingPolyakModel(root, h.eps, h.lb, h.beta2),)
