"""Adam: moments of the gradient, each with its bias removed.

    m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
    p <- p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980 (2014).

Analyses of Adam often take `bias_correction=False`, eps below the root (`eps_in_root`) and a second moment that begins
at `v0` > 0: Q. Zhang, Y. Zhou, S. Zou, arXiv:2404.01436 (2024), among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shoal.optim import kernels
from shoal.optim.common import coupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import SHARED, flag
from shoal.optim.core.ops import ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, sqrt
from shoal.optim.core.stepping import Item


@dataclass(frozen=True)
class AdamScaling(Transform):
    """Adam's moments with bias correction: m^ / (sqrt(v^) + eps)."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments."""
        return Slot("m"), Slot("v")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient, and the bias corrections."""
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "correction1": one_minus_power(self.beta1, t),
            "root2": sqrt(one_minus_power(self.beta2, t)),
        }

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update both moments and return the scaled step."""
        m = ema_(s.m, u, c.new1)
        v = ema_square_(s.v, u, c.beta2, c.new2)
        return m / v.sqrt().div_(c.root2).add_(c.eps).mul_(c.correction1)

    def fused(self, items: Sequence[Item]) -> bool:
        """By torch's kernel, alone or after either kind of weight decay."""
        return kernels.adam(items, (self.beta1, self.beta2), self.eps)


@dataclass(frozen=True)
class PlainAdamScaling(AdamScaling):
    """The same without bias correction, with eps below the root, or with a second moment that begins at v0."""

    bias_correction: bool = False
    eps_in_root: bool = False
    v0: float = 0.0

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments."""
        return Slot("m"), Slot("v", start=self.v0)

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update both moments and return the scaled step."""
        m = ema_(s.m, u, c.new1)
        v = ema_square_(s.v, u, c.beta2, c.new2)
        if self.bias_correction:
            m, v = m / c.correction1, v / c.root2 / c.root2
        return m / (v.add(c.eps).sqrt_() if self.eps_in_root else v.sqrt().add_(c.eps))


class Adam(Optimizer):
    """Adam; `weight_decay` adds to the gradient (L2), as in `torch.optim.Adam`."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    bias_correction: bool = True
    eps_in_root: bool = False
    v0: float = 0.0

    about: ClassVar[dict[str, Argument]] = {
        "bias_correction": Argument("divide the moments by the sums of their weights", "True or False", flag),
        "eps_in_root": Argument("add eps below the root instead of beside it", "True or False", flag),
        "v0": Argument("second moment before the first step", "a finite number >= 0", SHARED["eps"].check),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, then the moments."""
        beta1, beta2 = h.betas
        if h.bias_correction and not h.eps_in_root and not h.v0:
            return *coupled(h.weight_decay), AdamScaling(beta1, beta2, h.eps)
        plain = PlainAdamScaling(beta1, beta2, h.eps, h.bias_correction, h.eps_in_root, h.v0)
        return *coupled(h.weight_decay), plain
