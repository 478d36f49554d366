"""diffGrad, restated in float64 NumPy.

S. R. Dubey, S. Chakraborty, S. K. Roy, S. Mukherjee, S. K. Singh, B. B. Chaudhuri, "diffGrad: An Optimization Method
for Convolutional Neural Networks", arXiv:1909.11015 (2019); code: shivram1987/diffGrad, diffGrad_v2.py.

    g <- g + lam w
    m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
    xi = 1 / (1 + exp(-|g_prev - g|))                       in [1/2, 1);  g_prev = 0 at the first step
    w <- w - lr sqrt(1 - beta2^t) / (1 - beta1^t) xi m / (sqrt(v) + eps)
    g_prev = g

Choices where the source leaves or contradicts itself:

* The first published code keeps a reference to the gradient for g_prev, which the next gradient overwrites: xi = 1/2
  from the second step on. A copy is kept here, as in the second.
* g_prev includes the decay term, as in the code.
* eps is added to the uncorrected sqrt(v): not the same eps as in Adam today.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class DiffGrad:
    """Adam times a friction that is small where the gradient hardly changes."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.g_prev = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            t = self.t[i]
            g = g + self.weight_decay * self.params[i]
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g**2
            xi = 1.0 / (1.0 + np.exp(-np.abs(self.g_prev[i] - g)))
            rate = self.lr * (1.0 - beta2**t) ** 0.5 / (1.0 - beta1**t)
            self.params[i] = self.params[i] - rate * xi * self.m[i] / (np.sqrt(self.v[i]) + self.eps)
            self.g_prev[i] = g
