"""AdamP and SGDP, restated in float64 NumPy.

B. Heo, S. Chun, S. J. Oh, D. Han, S. Yun, G. Kim, Y. Uh, J.-W. Ha, "AdamP: Slowing Down the Slowdown for Momentum
Optimizers on Scale-invariant Weights", ICLR 2021, arXiv:2006.08217 (2020), with the details of the authors' code.

    SGDP:   m <- momentum m + (1 - dampening) g,  p = m            (nesterov: p = g + momentum m)
            step = lr,  decay = lr weight_decay / (1 - momentum)
    AdamP:  m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
            p = m / (sqrt(v / (1 - beta2^t)) + eps)                (nesterov: beta1 m + (1 - beta1) g in place of m)
            step = lr / (1 - beta1^t),  decay = lr weight_decay
    tensors of two or more dimensions, seen as rows (first the output channels, then the tensor as one row):
            if  max over rows of |<g, w>| / (|g| |w|)  <  delta / sqrt(row length):
                p <- p - w^ <w^, p> in each row,  w^ = w / |w|,  decay <- wd_ratio decay,  no further view is tried
    w <- (1 - decay) w - step p

Choices where the source leaves or contradicts itself:

* The paper states test and projection for one weight vector. The code, followed here, projects all rows of a view or
  none: the largest cosine decides.
* eps guards the norms as in the code: the cosine is <g, w> / (max(|g|, eps) max(|w|, eps)), w^ = w / (|w| + eps). A row
  of zero gradient has cosine 0, which passes the test. Because of the latter eps the projection leaves <w, p'> =
  (1 - (|w| / (|w| + eps))^2) <w, p>, about 2 eps |p|, not 0.
* g and w of the test are those before the update; the gradient is without any penalty; the decay is decoupled and
  divided by 1 - momentum in SGDP only.
* SGDP's buffer starts at 0, so that with dampening its first value is (1 - dampening) g (torch.optim.SGD: g). lr of
  SGDP has no published default; momentum is 0 in the code.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def largest_cosine(g: Array, w: Array, eps: float) -> float:
    """Over the rows of two matrices."""
    norms = np.maximum(np.linalg.norm(g, axis=1), eps) * np.maximum(np.linalg.norm(w, axis=1), eps)
    return float(np.max(np.abs(np.sum(g * w, axis=1)) / norms))


def project(w: Array, g: Array, p: Array, *, delta: float, eps: float) -> tuple[Array, bool]:
    """p without its radial part if w looks scale-invariant, and whether it does."""
    if w.ndim < 2:
        return p, False
    for rows in (w.shape[0], 1):
        w_rows, g_rows, p_rows = w.reshape(rows, -1), g.reshape(rows, -1), p.reshape(rows, -1)
        if largest_cosine(g_rows, w_rows, eps) < delta / sqrt(w_rows.shape[1]):
            unit = w_rows / (np.linalg.norm(w_rows, axis=1, keepdims=True) + eps)
            return (p_rows - unit * np.sum(unit * p_rows, axis=1, keepdims=True)).reshape(w.shape), True
    return p, False


class AdamP:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.delta, self.wd_ratio, self.nesterov = delta, wd_ratio, nesterov
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
            numerator = beta1 * self.m[i] + (1 - beta1) * g if self.nesterov else self.m[i]
            p = numerator / (np.sqrt(self.v[i] / (1 - beta2 ** self.t[i])) + self.eps)
            p, invariant = project(self.params[i], g, p, delta=self.delta, eps=self.eps)
            decay = self.lr * self.weight_decay * (self.wd_ratio if invariant else 1.0)
            self.params[i] = (1 - decay) * self.params[i] - self.lr / (1 - beta1 ** self.t[i]) * p


class SGDP:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        eps: float = 1e-8,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.momentum, self.dampening, self.weight_decay = lr, momentum, dampening, weight_decay
        self.nesterov, self.eps, self.delta, self.wd_ratio = nesterov, eps, delta, wd_ratio
        self.m = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.m[i] = self.momentum * self.m[i] + (1 - self.dampening) * g
            p = g + self.momentum * self.m[i] if self.nesterov else self.m[i]
            p, invariant = project(self.params[i], g, p, delta=self.delta, eps=self.eps)
            decay = self.lr * self.weight_decay * (self.wd_ratio if invariant else 1.0) / (1 - self.momentum)
            self.params[i] = (1 - decay) * self.params[i] - self.lr * p
