"""AdamW and SGDW, restated in float64 NumPy.

I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101 (2017), Algorithms 1
and 2.

    eta_t is the schedule's multiplier, lr the paper's alpha, weight_decay its lambda; g has no penalty in it
    SGDW:   m <- beta1 m + eta_t lr g,  theta <- theta - m - eta_t lambda theta
    AdamW:  m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
            m^ = m / (1 - beta1^t),  v^ = v / (1 - beta2^t)
            theta <- theta - eta_t (lr m^ / (sqrt(v^) + eps) + lambda theta)
    warm restarts:     eta_t = 0.5 + 0.5 cos(pi T_cur / T_i),  T_(i+1) = T_i T_mult
    normalised decay:  lambda = lambda_norm sqrt(b / (B T)),  batch size b, B training points, T epochs

Both theta on the right are the one before the update.

Choices where the source leaves or contradicts itself:

* The paper's lambda is not multiplied by lr. With `decay_times_lr=True` it is, the convention of torch.optim.AdamW:
  lambda = lr * weight_decay. Changing `lr` then changes the decay too; in the paper's form a schedule is `eta`.
* The authors' Torch7 code adds eps to the root of the uncorrected v, and its SGDW keeps the learning rate out of the
  buffer (the two differ only when lr or eta changes). Here both are as printed in the paper.
* `nesterov` (in the authors' SGD code, not in Algorithm 1): eta_t lr g + beta1 m, with the new m, in place of m in the
  step. With constant lr this is v <- mu v + g, theta <- theta - lr (g + mu v).
* No default of lambda is published: 0. SGDW's lr and momentum are those of the authors' training script.
"""

from collections.abc import Sequence
from math import cos, pi, sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def restart_multiplier(epoch: float, *, first_period: float, period_multiplier: float = 1.0) -> float:
    """eta_t at a (fractional) epoch counted from the very beginning; 1 at every restart."""
    t_cur, period = epoch, first_period
    while t_cur >= period:
        t_cur, period = t_cur - period, period * period_multiplier
    return 0.5 + 0.5 * cos(pi * t_cur / period)


def normalised_weight_decay(norm: float, *, batch_size: int, points: int, epochs: float) -> float:
    return norm * sqrt(batch_size / (points * epochs))


class AdamW:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        eta: float = 1.0,
        decay_times_lr: bool = False,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay, self.eta, self.decay_times_lr = weight_decay, eta, decay_times_lr
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        decay = self.lr * self.weight_decay if self.decay_times_lr else self.weight_decay
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m_hat = self.m[i] / (1 - beta1 ** self.t[i])
            v_hat = self.v[i] / (1 - beta2 ** self.t[i])
            theta = self.params[i]
            self.params[i] = theta - self.eta * (self.lr * m_hat / (np.sqrt(v_hat) + self.eps) + decay * theta)


class SGDW:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        eta: float = 1.0,
        decay_times_lr: bool = False,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.momentum, self.weight_decay, self.nesterov = lr, momentum, weight_decay, nesterov
        self.eta, self.decay_times_lr = eta, decay_times_lr
        self.m = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        decay = self.lr * self.weight_decay if self.decay_times_lr else self.weight_decay
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.m[i] = self.momentum * self.m[i] + self.eta * self.lr * g
            move = self.eta * self.lr * g + self.momentum * self.m[i] if self.nesterov else self.m[i]
            self.params[i] = self.params[i] - move - self.eta * decay * self.params[i]
