"""Adagrad: the gradient over the root of the sum of all its squares.

    w <- w + g^2        p <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(w) + eps)

J. Duchi, E. Hazan, Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 12
(2011); the diagonal form.

`lr_decay` is torch's. With `eps=0.0` an entry stays until it has seen a gradient: the publication's pseudo-inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shoal.optim import kernels
from shoal.optim.common import coupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Quotient, Scalars, Slot, State
from shoal.optim.core.arguments import at_least
from shoal.optim.core.ops import divide_parts
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.stepping import Item


@dataclass(frozen=True)
class SumScaling(Quotient):
    """u / (sqrt(w) + eps), over 1 + (t - 1) lr_decay."""

    eps: float = 1e-10
    lr_decay: float = 0.0
    initial: float = 0.0
    exact: bool = False  # no eps: a root of 0 is allowed for

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The sum of squares."""
        return (Slot("squares", start=self.initial),)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """What the learning rate is divided by."""
        return {"times": 1.0 / (1.0 + (t - 1.0) * self.lr_decay)}

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Add to the sum and return the step as a fraction."""
        root: Tensor = s.squares.addcmul_(u, u).sqrt()
        return divide_parts(u, root) if self.exact else (u, root.add_(c.eps))

    def fused(self, items: Sequence[Item]) -> bool:
        """By torch's kernel."""
        return not self.exact and kernels.adagrad(items, self.eps, self.lr_decay)


class Adagrad(Optimizer):
    """Adagrad, as `torch.optim.Adagrad`; `weight_decay` adds to the gradient (L2)."""

    lr: float = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    about: ClassVar[dict[str, Argument]] = {
        "lr_decay": Argument("how fast the learning rate falls", "a finite number >= 0", at_least(0.0)),
        "initial_accumulator_value": Argument("start of the sum of squares", "a finite number >= 0", at_least(0.0)),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, then the scaling."""
        scaling = SumScaling(h.eps, h.lr_decay, h.initial_accumulator_value, not h.eps)
        return *coupled(h.weight_decay), scaling
