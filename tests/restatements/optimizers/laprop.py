"""LaProp, restated in float64 NumPy.

L. Ziyin, Z. T. Wang, M. Ueda, "LaProp: Separating Momentum and Adaptivity in Adam", arXiv:2002.04839 (2020);
code: Z-T-WANG/LaProp-Optimizer.

    n_t = nu n_{t-1} + (1 - nu) g_t^2                      n^_t = n_t / (1 - nu^t)
    m_t = mu m_{t-1} + (1 - mu) lr_t g_t / (sqrt(n^_t) + eps)
    c_t = mu c_{t-1} + (1 - mu) lr_t                       n_0 = m_0 = c_0 = 0
    w <- w - m_t lr_t / c_t                                with constant lr: w <- w - m_t / (1 - mu^t)
    w <- w - lam w                                         after the step and not multiplied by lr

    centered: a_t = nu a_{t-1} + (1 - nu) g_t; from step 11 on n_t - a_t^2 stands for n_t in n^_t
    amsgrad:  the largest n_t (or n_t - a_t^2, from step 11 on) so far stands for n_t in n^_t

`betas` is (mu, nu).

Choices where the source leaves or contradicts itself:

* The paper has a constant rate; the rate inside the average and c_t are the code's.
* lr_t = 0: the code then divides by 1 instead of c_t / lr_t and moves by m_t. Here the step is m_t lr_t / c_t = 0,
  which is the limit.
* Centered: a_t enters uncorrected, and 1 - nu^t divides the difference, as in the code. Rounding may make the
  difference negative; it is cut off at 0.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class LaProp:
    """Gradients are normalised first and averaged then."""

    steps_before_using_centered = 10

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 4e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        centered: bool = False,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.amsgrad, self.centered = amsgrad, centered
        self.t = [0 for _ in self.params]
        self.n = [np.zeros_like(p) for p in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.c = [0.0 for _ in self.params]
        self.a = [np.zeros_like(p) for p in self.params]
        self.n_max = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        mu, nu = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            t = self.t[i]
            self.n[i] = nu * self.n[i] + (1.0 - nu) * g**2
            n = self._second_moment(i, g)
            n_hat = n / (1.0 - nu**t)
            self.m[i] = mu * self.m[i] + (1.0 - mu) * self.lr * g / (np.sqrt(n_hat) + self.eps)
            self.c[i] = mu * self.c[i] + (1.0 - mu) * self.lr
            if self.lr != 0.0:
                self.params[i] = self.params[i] - self.m[i] * (self.lr / self.c[i])
            self.params[i] = self.params[i] - self.weight_decay * self.params[i]

    def _second_moment(self, i: int, g: Array) -> Array:
        nu = self.betas[1]
        early = self.t[i] <= self.steps_before_using_centered
        n = self.n[i]
        if self.centered:
            self.a[i] = nu * self.a[i] + (1.0 - nu) * g
            if not early:
                n = np.maximum(n - self.a[i] ** 2, 0.0)
        if self.amsgrad and not (self.centered and early):
            self.n_max[i] = np.maximum(self.n_max[i], n)
            n = self.n_max[i]
        return n
