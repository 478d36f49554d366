"""RMSProp and Adam as their theory under generalized smoothness has them, restated in float64 NumPy.

Q. Zhang, Y. Zhou, S. Zou, "Convergence Guarantees for RMSProp and Adam in Generalized-smooth Non-convex Optimization
with Affine Noise Variance", arXiv:2404.01436 (2024).

    v <- beta2 v + (1 - beta2) g^2,  v = v_0 > 0 at first;   m <- beta1 m + (1 - beta1) g,  m = 0 at first
    RMSProp   x <- x - eta g / sqrt(v + zeta);     Adam   x <- x - eta m / sqrt(v + zeta)
    scaling for a mean gradient norm of order e:  eta = a e^2,  1 - beta2 = b e^2,  T = c e^-4

Choices where the source leaves or contradicts itself:

* zeta is inside the root; no bias correction; beta1 < sqrt(beta2).
* v is updated before the step that divides by it. v_0 is one number for all coordinates here.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class RMSProp:
    beta1 = 0.0

    def __init__(
        self, params: Sequence[Array], *, lr: float, beta2: float, zeta: float = 1e-8, v0: float = 1.0
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.beta2, self.zeta = lr, beta2, zeta
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.full_like(p, v0) for p in self.params]

    def step(self, grads: Sequence[Array]) -> None:
        for i, g in enumerate(grads):
            self.v[i] = self.beta2 * self.v[i] + (1 - self.beta2) * g**2
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * g
            self.params[i] = self.params[i] - self.lr * self.m[i] / np.sqrt(self.v[i] + self.zeta)


class Adam(RMSProp):
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float,
        betas: tuple[float, float],
        zeta: float = 1e-8,
        v0: float = 1.0,
    ) -> None:
        if betas[0] ** 2 >= betas[1]:
            raise ValueError(f"betas: beta1 < sqrt(beta2) is allowed, got {betas}")
        super().__init__(params, lr=lr, beta2=betas[1], zeta=zeta, v0=v0)
        self.beta1 = betas[0]


def scaling(e: float, a: float = 1.0, b: float = 0.5, c: float = 40.0) -> tuple[float, float, int]:
    """Return eta, beta2 and T for the target e."""
    return a * e**2, 1 - b * e**2, round(c / e**4)
