"""AdaFactor: the second moment of a matrix as a row and a column, and steps relative to the size of the parameter.

    beta_t = 1 - t^beta2_decay
    R <- beta_t R + (1 - beta_t) row means of (g^2 + eps1)        C: column means likewise        V = R C / mean(R)
    U <- g / sqrt(V)        U <- U / max(1, RMS(U) / d)
    p <- (1 - lr lam) p - max(eps2, RMS(p)) min(lr, 1 / sqrt(t)) U

N. Shazeer, M. Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv:1804.04235 (2018).

Choices: the paper has no lr; as in torch it stands for its 0.01. With `relative_step=False` it is the step size itself.
eps1 is added to the squares, as published; torch bounds R and sqrt(V) from below instead, with another default, and the
two agree while squares are far above both. The paper's sums are means here, which V does not notice (eps1 is the same
share of either). Tensors of more than two axes are factored along the last two, and those of less keep V itself. Decay,
which the paper has not, is torch's: RMS(p) is taken before it. The momentum of some of its experiments is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import above, at_least, flag
from shoal.optim.core.ops import ema_, root_mean_square
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, exp, log, minimum, sqrt


@dataclass(frozen=True)
class FactoredScaling(Transform):
    """g / sqrt(V), made shorter where its root mean square is above d.

    Attributes:
        beta2_decay: the new squares weigh t^beta2_decay.
        eps1: added to the squares.
        d: largest root mean square of what comes out.
        factored: V is made of rows and columns of the last two axes; else it is kept.
    """

    granularity = "tensor"

    beta2_decay: float = -0.8
    eps1: float = 1e-30
    d: float = 1.0
    factored: bool = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Row and column means, or V."""
        if not self.factored:
            return (Slot("v"),)
        return (
            Slot("row", shape=lambda shape: (*shape[:-1], 1)),
            Slot("column", shape=lambda shape: (*shape[:-2], 1, shape[-1])),
        )

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the new squares."""
        return {"new": exp(self.beta2_decay * log(t))}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the second moment and return the scaled step."""
        unit = self.normalised(u, s, c)
        return unit.mul_(self.clipping(unit, c))

    def normalised(self, u: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the second moment and return u / sqrt(V), a new tensor."""
        square = u * u
        if not self.factored:
            return ema_(s.v, square.add_(c.eps1), c.new).rsqrt().mul_(u)
        row = ema_(s.row, square.mean(-1, keepdim=True).add_(c.eps1), c.new)
        column = ema_(s.column, square.mean(-2, keepdim=True).add_(c.eps1), c.new)
        unit: Tensor = u * (row / row.mean(-2, keepdim=True)).rsqrt_()
        return unit.mul_(column.rsqrt())

    def clipping(self, unit: Tensor, c: Scalars) -> Tensor:
        """The factor that makes it no longer than d, 0-dim."""
        relative: Tensor = root_mean_square(unit) / c.d
        return relative.clamp_min_(1.0).reciprocal_()


@dataclass(frozen=True)
class RelativeFactoredScaling(FactoredScaling):
    """The same times max(eps2, RMS(p)) min(lr, 1 / sqrt(t))."""

    rated = True

    eps2: float = 1e-3

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Also the relative step size."""
        return {**super().derived(t, lr), "relative": minimum(lr, 1.0 / sqrt(t))}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the second moment and return the step."""
        unit = self.normalised(u, s, c)
        return unit.mul_(self.clipping(unit, c).mul_(size(p, c.eps2)).mul_(c.relative))


def size(p: Tensor, least: Tensor | float) -> Tensor:
    """max(least, RMS(p)), 0-dim: the scale on which a parameter moves."""
    return root_mean_square(p).clamp_min(least)


@dataclass(frozen=True)
class DecayWithin(Transform):
    """Decoupled decay, p <- (1 - lr lam) p, after the transforms before it have seen p."""

    lam: float

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """What is left of the parameter."""
        return {"kept": 1.0 - lr * self.lam}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Shrink the parameter."""
        p.mul_(c.kept)
        return u


class AdaFactor(Optimizer):
    """AdaFactor; a matrix [n, m] has n + m numbers of state.

    `lr` bounds the relative step size; with `relative_step=False` it is the absolute one.
    """

    lr: float = 1e-2
    beta2_decay: float = -0.8
    eps: tuple[float, float] = (1e-30, 1e-3)
    d: float = 1.0
    weight_decay: float = 0.0
    relative_step: bool = True

    about: ClassVar[dict[str, Argument]] = {
        "beta2_decay": Argument(
            "the new squares weigh t^beta2_decay", "a finite number <= 0", lambda v: at_least(0.0)(-v)
        ),
        "eps": Argument(
            "added to the squares; least size of a parameter",
            "two finite numbers >= 0",
            lambda v: isinstance(v, tuple | list) and len(v) == 2 and all(map(at_least(0.0), v)),
        ),
        "d": Argument("largest root mean square of an update", "a finite number > 0", above(0.0)),
        "relative_step": Argument("steps in proportion to the parameter's size", "True or False", flag),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """The factored moments, then the decay, since RMS(p) is taken before it."""
        eps1, eps2 = h.eps
        factored = len(param.shape) > 1
        decay = (DecayWithin(h.weight_decay),) if h.weight_decay else ()
        if h.relative_step:
            return RelativeFactoredScaling(h.beta2_decay, eps1, h.d, factored, eps2), *decay
        return FactoredScaling(h.beta2_decay, eps1, h.d, factored), *decay
