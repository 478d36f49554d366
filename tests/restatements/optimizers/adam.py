"""Adam and AdaMax, restated in float64 NumPy.

D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980 (2014), Algorithms 1
and 2.

    t <- t + 1,  m <- beta1 m + (1 - beta1) g                                        m = v = u = 0 at first
    Adam:    v <- beta2 v + (1 - beta2) g^2,  m^ = m / (1 - beta1^t),  v^ = v / (1 - beta2^t)
             theta <- theta - lr m^ / (sqrt(v^) + eps)
    AdaMax:  u <- max(beta2 u, |g|),  theta <- theta - lr / (1 - beta1^t) m / u

Choices where the source leaves or contradicts itself:

* eps of Adam is added to the root of the corrected v^, as in Algorithm 1. The faster form of Section 2 adds eps^ to the
  root of v; it is the same rule only if eps^ = eps sqrt(1 - beta2^t).
* AdaMax is undefined where u = 0 (every gradient so far was 0, so m = 0 as well): the coordinate stays where it is.
  The paper has no eps there; `eps` > 0 gives u <- max(beta2 u, |g| + eps), the form of torch.optim.Adamax.
* No weight decay: a penalty is part of the gradient. lr / sqrt(t) and beta1 lambda^(t-1) belong to the analysis only.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Adam:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps = lr, betas, eps
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m_hat = self.m[i] / (1 - beta1 ** self.t[i])
            v_hat = self.v[i] / (1 - beta2 ** self.t[i])
            self.params[i] = self.params[i] - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


class AdaMax:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 0.0,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps = lr, betas, eps
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.u = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.u[i] = np.maximum(beta2 * self.u[i], np.abs(g) + self.eps)
            u = np.where(self.u[i] > 0, self.u[i], np.inf)
            self.params[i] = self.params[i] - self.lr / (1 - beta1 ** self.t[i]) * self.m[i] / u
