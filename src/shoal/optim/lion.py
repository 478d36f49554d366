"""Lion: the sign of one average of the gradient, while another average is kept.

    c <- beta1 m + (1 - beta1) g        p <- p - lr (sign(c) + lam p)        sign(0) = 0
    m <- beta2 m + (1 - beta2) g        after c has been taken from the old m

X. Chen, C. Liang, D. Huang, E. Real, K. Wang, Y. Liu, H. Pham, X. Dong, T. Luong, C.-J. Hsieh, Y. Lu, Q. V. Le,
"Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675 (2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.optim.common import decoupled
from shoal.optim.core import Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.ops import ema_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar


@dataclass(frozen=True)
class SignOfAverage(Transform):
    """sign(beta1 m + (1 - beta1) u), then m <- beta2 m + (1 - beta2) u. Equal betas make it sign-momentum (Signum)."""

    beta1: float = 0.9
    beta2: float = 0.99

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The kept average."""
        return (Slot("m"),)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient."""
        return {"new1": 1.0 - self.beta1, "new2": 1.0 - self.beta2}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Return the sign of the first average and update the second."""
        direction = torch.lerp(s.m, u, c.new1).sign_()
        ema_(s.m, u, c.new2)
        return direction


class Lion(Optimizer):
    """Lion: every entry moves by lr, so lr is to be 3 to 10 times smaller than AdamW's, and the decay as much larger.

    Neither eps nor bias corrections: the scale of the gradient does not matter. One buffer of state.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the sign."""
        beta1, beta2 = h.betas
        return *decoupled(h.weight_decay), SignOfAverage(beta1, beta2)
