"""SWATS, restated in float64 NumPy.

N. S. Keskar, R. Socher, "Improving Generalization Performance by Switching from Adam to SGD", arXiv:1712.07628 (2017),
Algorithm 1.

    Adam phase, step k:  m <- beta1 m + (1 - beta1) g,  a <- beta2 a + (1 - beta2) g^2
                         p = -lr sqrt(1 - beta2^k) / (1 - beta1^k) m / (sqrt(a) + eps),  w <- w + p
                         if p.g != 0:  gamma = p.p / (-p.g),  lambda <- beta2 lambda + (1 - beta2) gamma
                                       if k > 1 and |lambda / (1 - beta2^k) - gamma| < eps:
                                           Lambda = lambda / (1 - beta2^k), SGD from the next step on, v = 0
    SGD phase:           v <- beta1 v + g,  w <- w - (1 - beta1) Lambda v

Choices where the source leaves or contradicts itself:

* p.p and p.g run over all parameters together (w is one vector in the paper): one gamma, one switch. Packages take
  them tensor by tensor and test with a relative tolerance.
* gamma may be negative, where m points against g. A switch with Lambda <= 0 would climb, so it is not made (as in the
  packages).
* The tolerance is the eps of the denominator, 1e-9; `tolerance` sets it apart.
* A tensor without a gradient takes no part in p.p and p.g and keeps its own step counter; the k of lambda counts the
  steps in which any tensor had one. Where p.g = 0, k goes on and lambda stays, as printed.
* A later change of lr multiplies Lambda by the same factor (the paper divides lr or Lambda by 10 at the same time):
  the SGD step is (1 - beta1) Lambda (lr now / lr at the switch).
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class SWATS:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-9,
        tolerance: float | None = None,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps = lr, betas, eps
        self.tolerance = eps if tolerance is None else tolerance
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.a = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.k = 0
        self.phase = "adam"
        self.gamma: float | None = None
        self.lambda_ = 0.0
        self.sgd_lr: float | None = None
        """Lambda, once the switch was made."""
        self.lr_at_switch: float | None = None

    def step(self, grads: Sequence[Array | None]) -> None:
        if all(g is None for g in grads):
            return
        self.k += 1
        if self.phase == "adam":
            self._adam(grads)
        else:
            self._sgd(grads)

    def _adam(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        p_p, p_g = 0.0, 0.0
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.a[i] = beta2 * self.a[i] + (1 - beta2) * g**2
            rate = self.lr * sqrt(1 - beta2 ** self.t[i]) / (1 - beta1 ** self.t[i])
            p = -rate * self.m[i] / (np.sqrt(self.a[i]) + self.eps)
            self.params[i] = self.params[i] + p
            p_p += float(np.sum(p * p))
            p_g += float(np.sum(p * g))
        if p_g == 0:
            return
        self.gamma = p_p / -p_g
        self.lambda_ = beta2 * self.lambda_ + (1 - beta2) * self.gamma
        corrected = self.lambda_ / (1 - beta2**self.k)
        if self.k > 1 and corrected > 0 and abs(corrected - self.gamma) < self.tolerance:
            self.phase, self.sgd_lr, self.lr_at_switch = "sgd", corrected, self.lr

    def _sgd(self, grads: Sequence[Array | None]) -> None:
        assert self.sgd_lr is not None
        assert self.lr_at_switch is not None
        beta1 = self.betas[0]
        rate = (1 - beta1) * self.sgd_lr * (self.lr / self.lr_at_switch)
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.v[i] = beta1 * self.v[i] + g
            self.params[i] = self.params[i] - rate * self.v[i]
