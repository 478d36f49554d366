"""AdaHessian, restated in float64 NumPy.

Z. Yao, A. Gholami, S. Shen, M. Mustafa, K. Keutzer, M. W. Mahoney, "ADAHESSIAN: An Adaptive Second Order Optimizer for
Machine Learning", arXiv:2006.00719 (2020), with the details of the authors' optim_adahessian.py.

    z = +-1 at random,   h = H z   (product with the Hessian of the loss over all tensors together)
    D = |z . h| = |h|,   averaged over blocks;   m <- beta1 m + (1 - beta1) g;   v <- beta2 v + (1 - beta2) D^2
    theta <- theta - lr [ (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t))^k + eps) + lambda theta ]

Choices where the source leaves or contradicts itself:

* `step` takes the product h, or D = z . h, or any estimate of the diagonal: only its absolute value is used. The
  absolute value is averaged, the average is squared.
* Blocks. Four axes: the last two (a kernel's window). At most two axes: none, as in the authors' image code; `rows`
  averages a matrix over its last axis instead, as their general file does. Other tensors: none; the authors' code fails
  on three axes and their text leaves them open.
* eps is beside the power of the root; lambda is decoupled, of the old weights, with lr.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def spatial_average(h: Array, *, rows: bool = False) -> Array:
    """|h|, each entry replaced by the mean over its block."""
    h = np.abs(h)
    if h.ndim == 4:
        return np.broadcast_to(h.mean(axis=(2, 3), keepdims=True), h.shape)
    if h.ndim == 2 and rows:
        return np.broadcast_to(h.mean(axis=1, keepdims=True), h.shape)
    return h


class AdaHessian:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        power: float = 1.0,
        rows: bool = False,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.power, self.rows = power, rows
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.t = [0] * len(self.params)

    def step(self, grads: Sequence[Array | None], products: Sequence[Array | None]) -> None:
        """Take one step; `products` has H z, z . H z or another estimate of the Hessian's diagonal."""
        beta1, beta2 = self.betas
        for i, (g, h) in enumerate(zip(grads, products, strict=True)):
            if g is None or h is None:
                continue
            self.t[i] += 1
            d = spatial_average(h, rows=self.rows)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * d**2
            m_hat = self.m[i] / (1 - beta1 ** self.t[i])
            v_hat = self.v[i] / (1 - beta2 ** self.t[i])
            step = m_hat / (np.sqrt(v_hat) ** self.power + self.eps)
            self.params[i] = self.params[i] - self.lr * (step + self.weight_decay * self.params[i])
