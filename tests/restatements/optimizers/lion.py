"""Lion, restated in float64 NumPy.

X. Chen, C. Liang, D. Huang, E. Real, K. Wang, Y. Liu, H. Pham, X. Dong, T. Luong, C.-J. Hsieh, Y. Lu, Q. V. Le,
"Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675 (2023); code: google/automl, lion.

    c = beta1 m + (1 - beta1) g
    w <- w - lr (sign(c) + lam w)        sign(0) = 0
    m <- beta2 m + (1 - beta2) g         after c has been taken from the old m;  m_0 = 0

Choices where the source leaves or contradicts itself:

* The code decays first, w <- (1 - lr lam) w, and then steps. c does not depend on w, so this is the same rule.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Lion:
    """Sign of one average of the gradient, with another average kept; `m` is the only state."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay
        self.m = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            w = self.params[i]
            c = beta1 * self.m[i] + (1.0 - beta1) * g
            self.params[i] = w - self.lr * (np.sign(c) + self.weight_decay * w)
            self.m[i] = beta2 * self.m[i] + (1.0 - beta2) * g
