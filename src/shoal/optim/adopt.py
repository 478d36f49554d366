"""ADOPT: Adam that divides by the second moment before this gradient, and before the momentum.

    t = 1:   v <- g^2, nothing moves
    t > 1:   n <- clip(g / max(sqrt(v), eps), +-(t - 1)^clip)
             m <- beta1 m + (1 - beta1) n        p <- p - lr m        v <- beta2 v + (1 - beta2) g^2, last

S. Taniguchi, K. Harada, G. Minegishi, Y. Oshima, S. C. Jeong, G. Nagahara, T. Iiyama, M. Suzuki, Y. Iwasawa,
Y. Matsuo, "ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate", arXiv:2411.02853 (2024).

Choices: no bias correction, as published. t counts the gradients of each tensor by itself. The bound is a power of t
(the authors' code takes any function of it); it came with the second version, `clip=None` is the first.
The decoupled decay leaves out the first step as well, as in the authors' code, so that nothing moves at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shoal.optim import kernels
from shoal.optim.common import DecoupledDecay, coupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import above, at_least, flag
from shoal.optim.core.ops import clip_, ema_, ema_square_, over
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, exp, log, maximum, minimum, where
from shoal.optim.core.stepping import Item


@dataclass(frozen=True)
class DecayFromSecondStep(DecoupledDecay):
    """Decoupled decay that spares the first step."""

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """What is left of the parameter."""
        return {"kept": where(t > 1.0, 1.0 - lr * self.lam, 1.0)}


@dataclass(frozen=True)
class AdoptScaling(Transform):
    """Momentum of the gradient divided by the second moment of those before it; zero in the first step."""

    beta1: float = 0.9
    beta2: float = 0.9999
    eps: float = 1e-6
    clip: float | None = 0.25

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments."""
        return Slot("m"), Slot("v")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Weights, which are such that the first step only fills v, and the bound."""
        later = minimum(t - 1.0, 1.0)  # 0 in the first step, 1 in others
        numbers = {
            "new1": later * (1.0 - self.beta1),
            "old2": later * self.beta2,
            "new2": 1.0 - later * self.beta2,
        }
        if self.clip is not None:
            numbers["limit"] = exp(self.clip * log(maximum(t - 1.0, 1.0)))
        return numbers

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Normalise by the old v, update m, and v last; return m."""
        return ema_(s.m, self.normalised(u, s, c), c.new1)

    def normalised(self, u: Tensor, s: State, c: Scalars) -> Tensor:
        """The update over the root of the old v, bounded; v is updated then."""
        n = over(u, s.v.sqrt().clamp_min_(c.eps))
        if self.clip is not None:
            n = clip_(n, -c.limit, c.limit)
        ema_square_(s.v, u, c.old2, c.new2)
        return n

    def fused(self, items: Sequence[Item]) -> bool:
        """With torch's kernel for SGD, which takes the momentum and the step."""
        c = items[0].scalars[-2]

        def take(b: kernels.Block) -> None:
            n = self.normalised(b.u, b.s, c)
            kernels.momentum_(b.p, n, b.s.m, mu=1.0 - c.new1, new=c.new1, lr=c.lr)

        return 1.0 - self.beta1 < 1.0 and kernels.by_blocks(items, take)


class ADOPT(Optimizer):
    """ADOPT; `weight_decay` adds to the gradient (L2), or with `decouple` shrinks the parameter as AdamW's does."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.9999)
    eps: float = 1e-6
    weight_decay: float = 0.0
    decouple: bool = False
    clip: float | None = 0.25

    about: ClassVar[dict[str, Argument]] = {
        "eps": Argument("least root of the second moment by which is divided", "a finite number > 0", above(0.0)),
        "decouple": Argument("decay the parameter, not the gradient", "True or False", flag),
        "clip": Argument(
            "normalised gradients are bounded by (t - 1)^clip; None: not at all",
            "a finite number >= 0, or None",
            lambda value: value is None or at_least(0.0)(value),
        ),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments."""
        beta1, beta2 = h.betas
        scaling = AdoptScaling(beta1, beta2, h.eps, h.clip)
        if h.decouple and h.weight_decay:
            return DecayFromSecondStep(h.weight_decay), scaling
        return *coupled(h.weight_decay), scaling
