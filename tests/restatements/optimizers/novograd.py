"""NovoGrad, restated in float64 NumPy.

B. Ginsburg, P. Castonguay, O. Hrinchuk, O. Kuchaiev, V. Lavrukhin, R. Leary, J. Li, H. Nguyen, Y. Zhang, J. M. Cohen,
"Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks", arXiv:1905.11286 (2019);
code: NVIDIA/OpenSeq2Seq, NVIDIA/DeepLearningExamples (Jasper).

For each tensor, with v one number:

    v = |g|^2                                      at first
    v = b2 v + (1 - b2) |g|^2                      afterwards
    m = b1 m + (g / (sqrt(v) + eps) + weight_decay w),   m_0 = 0
    w <- w - lr m

    grad_averaging:  the bracket times (1 - b1)
    amsgrad:         the largest v so far in place of v

Choices where the source leaves or contradicts itself:

* The first step has eps as well. The paper's initialisation of m is without it, and is 0 / 0 for a zero gradient.
* "At first" is as long as v is zero (so the codes): a zero first gradient leaves the initialisation to the next one.
* eps is outside the root (paper, Jasper); OpenSeq2Seq has sqrt(v + eps).
* Averaging scales the first bracket too (so the codes), where the paper sets m_1 to the plain bracket.
* No decay by default, as in the codes. The paper sets it by task, around 1e-3.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class NovoGrad:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        grad_averaging: bool = False,
        amsgrad: bool = False,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.grad_averaging = grad_averaging
        self.amsgrad = amsgrad
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [0.0 for _ in self.params]
        self.v_max = [0.0 for _ in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            w = self.params[i]
            squared_norm = float(np.sum(g**2))
            self.v[i] = squared_norm if self.v[i] == 0 else beta2 * self.v[i] + (1 - beta2) * squared_norm
            self.v_max[i] = max(self.v_max[i], self.v[i])
            v = self.v_max[i] if self.amsgrad else self.v[i]
            bracket = g / (np.sqrt(v) + self.eps) + self.weight_decay * w
            self.m[i] = beta1 * self.m[i] + ((1 - beta1) * bracket if self.grad_averaging else bracket)
            self.params[i] = w - self.lr * self.m[i]
