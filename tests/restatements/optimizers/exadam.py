"""EXAdam, restated in float64 NumPy.

A. M. Adly, "EXAdam: The Power of Adaptive Cross-Moments", arXiv:2412.20302 (2024); code: AhmedMostafa16/EXAdam.

    w <- (1 - lr lam) w
    m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
    d1 = 1 + v / (v + eps) beta2^t
    d2 = 1 + m^2 / (m^2 + eps) beta1^t
    m~ = m / (1 - beta1^t) d1,   v~ = v / (1 - beta2^t) d2,   g~ = g / (1 - beta1^t) d1
    w <- w - lr_t (m~ + g~) / (sqrt(v~) + eps)
    lr_t = lr (second version of the paper, present code)  or  lr ln(sqrt(2) sqrt(t + 1)) (first version)

Choices where the source leaves or contradicts itself:

* The growing rate of the first version is behind `dynamic_step_size`; off by default, as the author dropped it.
* The decay is not in the paper; it is the code's, with the plain lr also when the rate grows.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class EXAdam:
    """Adam with coupled corrections of both moments and an extra term of the present gradient."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        dynamic_step_size: bool = False,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.dynamic_step_size = dynamic_step_size
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
            w = (1.0 - self.lr * self.weight_decay) * self.params[i]
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g**2
            m, v = self.m[i], self.v[i]
            d1 = 1.0 + v / (v + self.eps) * beta2**t
            d2 = 1.0 + m**2 / (m**2 + self.eps) * beta1**t
            m_tilde = m / (1.0 - beta1**t) * d1
            v_tilde = v / (1.0 - beta2**t) * d2
            g_tilde = g / (1.0 - beta1**t) * d1
            lr_t = self.lr * np.log(np.sqrt(2.0) * np.sqrt(t + 1.0)) if self.dynamic_step_size else self.lr
            self.params[i] = w - lr_t * (m_tilde + g_tilde) / (np.sqrt(v_tilde) + self.eps)
