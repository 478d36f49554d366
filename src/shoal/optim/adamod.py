"""AdaMod: no entry's rate is above its own running average, which starts at 0: a warm-up and a bound in one.

    m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
    eta = lr sqrt(1 - beta2^t) / (1 - beta1^t) / (sqrt(v) + eps)        s <- beta3 s + (1 - beta3) eta
    p <- (1 - lr lam) p - min(eta, s) m

J. Ding, X. Ren, R. Luo, X. Sun, "An Adaptive and Momental Bound Method for Stochastic Learning", arXiv:1910.12249
(2019).

This is the authors' code. The printed algorithm averages eta = lr / (sqrt(v^) + eps) and multiplies the corrected m^
by the smaller: `paper_form=True`; its s is smaller for some 1 / (1 - beta1) steps. s has no bias correction in either.
The decay is the code's alone. beta3 = 0 is Adam, but for the place of eps in the code's form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim import kernels
from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Product, Scalars, Slot, State
from shoal.optim.core.arguments import SHARED, above, flag
from shoal.optim.core.ops import ema_, ema_square_, smaller, under
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, sqrt
from shoal.optim.core.stepping import Item


@dataclass(frozen=True)
class BoundedByAverage(Product):
    """min(eta, s) m."""

    beta1: float = 0.9
    beta2: float = 0.999
    beta3: float = 0.999
    eps: float = 1e-8
    paper_form: bool = False
    rated: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments, and the average of the rates."""
        return Slot("m"), Slot("v"), Slot("s")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of what is new, and the corrections."""
        correction1, root2 = one_minus_power(self.beta1, t), sqrt(one_minus_power(self.beta2, t))
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "new3": 1.0 - self.beta3,
            "correction1": correction1,
            "root2": root2,
            "rate": lr if self.paper_form else lr * root2 / correction1,
        }

    def factors(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Update the moments, then the average of the rates, and return the bounded rate and what it is of."""
        m = ema_(s.m, u, c.new1)
        return self._rate(ema_square_(s.v, u, c.beta2, c.new2), s, c), m

    def _rate(self, v: Tensor, s: State, c: Scalars, out: Tensor | None = None) -> Tensor:
        root = torch.sqrt(v, out=out)
        if self.paper_form:
            root.div_(c.root2)
        eta = under(c.rate, root.add_(c.eps))
        bounded = smaller(eta, ema_(s.s, eta, c.new3))
        return bounded.div_(c.correction1) if self.paper_form else bounded

    def fused(self, items: Sequence[Item]) -> bool:
        """With torch's kernel for Adam, which takes the moments."""
        t, c, betas = kernels.steps(), items[0].scalars[-2], (self.beta1, self.beta2)

        def take(b: kernels.Block) -> None:
            [root] = b.spare
            kernels.moments_(b.u, b.s.m, b.s.v, t, root, betas)
            b.p.addcmul_(self._rate(b.s.v, b.s, c, root), b.s.m, value=-1.0)

        return kernels.by_blocks(items, take, spare=1)


class AdaMod(Optimizer):
    """AdaMod; `weight_decay` is decoupled. It starts slowly: about 1 / (1 - beta3) steps."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    beta3: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    paper_form: bool = False

    about: ClassVar[dict[str, Argument]] = {
        "beta3": Argument("decay rate of the average of the rates", "a number in [0, 1)", SHARED["momentum"].check),
        "eps": Argument("keeps rates finite", "a finite number > 0", above(0.0)),
        "paper_form": Argument("correct the moments before the average is taken", "True or False", flag),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the bounded rates."""
        beta1, beta2 = h.betas
        return *decoupled(h.weight_decay), BoundedByAverage(beta1, beta2, h.beta3, h.eps, h.paper_form)
