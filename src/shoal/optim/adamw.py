"""AdamW and SGDW: weight decay apart from the gradient.

    p <- (1 - lr lam) p        then Adam's, or SGD's, step

I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101 (2017). The paper's decay does not
depend on the learning rate; as in torch it is multiplied by it here, so that a schedule moves both.
"""

from __future__ import annotations

from shoal.optim.adam import AdamScaling
from shoal.optim.chain import Chain, Optimizer, Param
from shoal.optim.chain.optimizer import Settings
from shoal.optim.common import Momentum, decoupled


class AdamW(Optimizer):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments."""
        beta1, beta2 = h.betas
        return *decoupled(h.weight_decay), AdamScaling(beta1, beta2, h.eps)


class SGDW(Optimizer):
    """SGD with momentum and decoupled weight decay."""

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the momentum."""
        return *decoupled(h.weight_decay), *((Momentum(h.momentum, h.nesterov),) if h.momentum else ())
