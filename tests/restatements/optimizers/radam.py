"""RAdam, restated in float64 NumPy.

L. Liu, H. Jiang, P. He, W. Chen, X. Liu, J. Gao, J. Han, "On the Variance of the Adaptive Learning Rate and Beyond",
ICLR 2020, arXiv:1908.03265 (2019), Algorithm 2.

    rho_inf = 2 / (1 - beta2) - 1,  rho_t = rho_inf - 2 t beta2^t / (1 - beta2^t)
    m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,  m^ = m / (1 - beta1^t)
    if rho_t > 4:  l = sqrt(1 - beta2^t) / (sqrt(v) + eps)
                   r = sqrt((rho_t - 4) (rho_t - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho_t))
                   theta <- theta - lr r m^ l
    otherwise:     theta <- theta - lr m^

Choices where the source leaves or contradicts itself:

* The bound: the paper's test is rho_t > 4; the authors' code uses rho_t >= 5, to be careful with an approximation, and
  torch.optim.RAdam rho_t > 5. `rho_threshold` is compared with >; 5 is both of these, as rho_t = 5 exactly does not
  occur at the usual beta2.
* The paper's l has no eps; as in the authors' code and torch it is added to the root of the uncorrected v.
* Weight decay, not in the paper, is decoupled as in the authors' code: theta <- (1 - lr weight_decay) theta before the
  step (torch adds an L2 term to g unless told otherwise).
* `degenerated_to_sgd=False`, the default of the authors' package, skips the step (and the decay) as long as rho_t is
  below the bound, with m, v and t going on. The paper takes the momentum step: True.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def length(t: int, beta2: float) -> float:
    """rho_t."""
    return 2 / (1 - beta2) - 1 - 2 * t * beta2**t / (1 - beta2**t)


def rectification(t: int, beta2: float) -> float:
    """r_t, for rho_t > 4."""
    rho_inf, rho = 2 / (1 - beta2) - 1, length(t, beta2)
    return sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))


class RAdam:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rho_threshold: float = 4.0,
        degenerated_to_sgd: bool = True,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.rho_threshold, self.degenerated_to_sgd = rho_threshold, degenerated_to_sgd
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            t = self.t[i]
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m_hat = self.m[i] / (1 - beta1**t)
            adaptive = length(t, beta2) > self.rho_threshold
            if not adaptive and not self.degenerated_to_sgd:
                continue
            theta = (1 - self.lr * self.weight_decay) * self.params[i]
            if adaptive:
                l = np.sqrt(1 - beta2**t) / (np.sqrt(self.v[i]) + self.eps)
                self.params[i] = theta - self.lr * rectification(t, beta2) * m_hat * l
            else:
                self.params[i] = theta - self.lr * m_hat
