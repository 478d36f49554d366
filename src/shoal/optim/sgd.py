"""Stochastic gradient descent, with momentum: m <- mu m + g, p <- p - lr m.

H. Robbins, S. Monro, "A Stochastic Approximation Method" (1951); B. T. Polyak (1964); Nesterov's form as in
I. Sutskever et al., "On the Importance of Initialization and Momentum in Deep Learning" (2013).
"""

from __future__ import annotations

from shoal.optim.common import Momentum, coupled
from shoal.optim.core import Chain, Optimizer, Param
from shoal.optim.core.optimizer import Settings


class SGD(Optimizer):
    """As `torch.optim.SGD`; `weight_decay` adds to the gradient (L2)."""

    lr: float = 0.1
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, then the momentum.

        Raises:
            ValueError: Nesterov's form without momentum, or with dampening.
        """
        if h.nesterov and (not h.momentum or h.dampening):
            raise ValueError("nesterov: needs momentum above 0 and dampening 0")
        momentum = (Momentum(h.momentum, h.nesterov, h.dampening),) if h.momentum else ()
        return *coupled(h.weight_decay), *momentum
