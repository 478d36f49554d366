"""Adafactor, restated in float64 NumPy.

N. Shazeer, M. Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv:1804.04235 (2018),
Algorithms 4 (matrices), 5 (vectors) and 6 (the proposed numbers).

    rho_t = min(0.01, 1 / sqrt(t));   beta_t = 1 - t^-0.8;   alpha_t = max(eps2, RMS(X)) rho_t
    matrix   R <- beta_t R + (1 - beta_t) (G^2 + eps1) 1;   C <- beta_t C + (1 - beta_t) 1^T (G^2 + eps1)
             V = R C / (1^T R)
    vector   V <- beta_t V + (1 - beta_t) (G^2 + eps1)
    U = G / sqrt(V);   X <- X - alpha_t U / max(1, RMS(U) / d)

Choices where the source leaves or contradicts itself:

* lr. The paper has none. As in torch.optim.Adafactor it takes the place of the 0.01 in rho_t (None: 0.01). With
  relative_step=False it is alpha_t itself: the absolute step size with which the paper compares.
* eps1 is added to the squares, as in the paper. torch bounds the mean of R and sqrt(V) from below instead, with
  another default; the two agree only while the squares are far above both numbers.
* Weight decay. The paper has none; torch's: X <- (1 - lr lambda) X before the step, with lr, not alpha_t, and
  with RMS(X) taken before it.
* More than two axes. The paper has matrices and vectors; as in torch the last two axes are factored, one pair
  R, C for each index of the others, and RMS(U) and RMS(X) are of the whole tensor.
* Momentum. Only an option of the paper's experiments, not in its algorithms: left out.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


class Adafactor:
    """Adafactor; state of a tensor: R [..., n, 1] and C [..., 1, m] (sums), or V for at most one axis; t."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float | None = None,
        beta2_decay: float = -0.8,
        eps: tuple[float, float] = (1e-30, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        relative_step: bool = True,
    ) -> None:
        if lr is None and not relative_step:
            raise ValueError("lr: an absolute step size (relative_step=False) must be given, got None")
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.beta2_decay, self.eps, self.d, self.weight_decay = lr, beta2_decay, eps, d, weight_decay
        self.relative_step = relative_step
        self.R = [np.zeros((*p.shape[:-1], 1)) if p.ndim > 1 else None for p in self.params]
        self.C = [np.zeros((*p.shape[:-2], 1, p.shape[-1])) if p.ndim > 1 else None for p in self.params]
        self.V = [None if p.ndim > 1 else np.zeros_like(p) for p in self.params]
        self.t = [0] * len(self.params)

    def second_moment(self, i: int, square: Array) -> Array:
        """Advance the state of tensor `i` with G^2 + eps1 and return V."""
        beta = 1 - self.t[i] ** self.beta2_decay
        if square.ndim <= 1:
            self.V[i] = beta * self.V[i] + (1 - beta) * square
            return self.V[i]
        self.R[i] = beta * self.R[i] + (1 - beta) * square.sum(axis=-1, keepdims=True)
        self.C[i] = beta * self.C[i] + (1 - beta) * square.sum(axis=-2, keepdims=True)
        return np.asarray(self.R[i] * self.C[i] / self.R[i].sum(axis=-2, keepdims=True))

    def step(self, grads: Sequence[Array | None]) -> None:
        lr = 1e-2 if self.lr is None else self.lr
        eps1, eps2 = self.eps
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            x = self.params[i]
            alpha = max(eps2, rms(x)) * min(lr, 1 / sqrt(self.t[i])) if self.relative_step else lr
            u = g / np.sqrt(self.second_moment(i, g**2 + eps1))
            clipped = u / max(1.0, rms(u) / self.d)
            self.params[i] = (1 - lr * self.weight_decay) * x - alpha * clipped
