"""AMSGrad, restated in float64 NumPy.

S. J. Reddi, S. Kale, S. Kumar, "On the Convergence of Adam and Beyond", ICLR 2018, arXiv:1904.09237, Algorithm 2.

    t <- t + 1,  lr_t = lr / sqrt(t),  beta1_t = beta1 lambda^(t-1)                     m = v = v^ = 0 at first
    m <- beta1_t m + (1 - beta1_t) g,  v <- beta2 v + (1 - beta2) g^2,  v^ <- max(v^, v)
    x <- projection onto F, in the norm weighted by sqrt(v^), of  x - lr_t m / sqrt(v^)

Choices where the source leaves or contradicts itself:

* lr_t is an input of the algorithm; lr / sqrt(t) is that of its analysis and its convex examples, the networks are
  trained with a constant one: `sqrt_decay=False`. lambda is `beta1_decay`, 1 by default.
* F is everything (`box=None`) or a box (`box=(low, high)`), whose weighted projection is clipping, coordinate by
  coordinate.
* The algorithm has no eps. With eps = 0 a coordinate with v^ = 0 (it saw only zeros, m = 0) stays where it is.
* The paper leaves the bias correction out. `bias_correction=True` puts it where torch.optim.Adam(amsgrad=True) has it:
  the maximum is over the uncorrected v, then m and v^ are corrected, and eps is added to the corrected root.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class AMSGrad:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 0.0,
        sqrt_decay: bool = True,
        beta1_decay: float = 1.0,
        box: tuple[float, float] | None = None,
        bias_correction: bool = False,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps = lr, betas, eps
        self.sqrt_decay, self.beta1_decay, self.box = sqrt_decay, beta1_decay, box
        self.bias_correction = bias_correction
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.v_hat = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta2 = self.betas[1]
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            t = self.t[i]
            lr = self.lr / sqrt(t) if self.sqrt_decay else self.lr
            beta1 = self.betas[0] * self.beta1_decay ** (t - 1)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            self.v_hat[i] = np.maximum(self.v_hat[i], self.v[i])
            m, v_hat = self.m[i], self.v_hat[i]
            if self.bias_correction:
                m, v_hat = m / (1 - self.betas[0] ** t), v_hat / (1 - beta2**t)
            root = np.sqrt(v_hat) + self.eps
            x = self.params[i] - lr * m / np.where(root > 0, root, np.inf)
            self.params[i] = x if self.box is None else np.clip(x, *self.box)
