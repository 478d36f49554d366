"""DoG, L-DoG and the polynomial average, restated in float64 NumPy.

M. Ivgi, O. Hinder, Y. Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule",
arXiv:2302.12022 (2023), with the details of the authors' package 1.0.3.

    t = 0     r = r_rel (1 + |x_0|);        G = |g_0|^2 + eps
    t >= 1    r <- max(r, |x_t - x_0|);     G <- G + |g_t|^2
    x_{t+1} = x_t - c (r / sqrt(G)) g_t
    DoG: norms over all tensors together;   L-DoG: r and G of each tensor

    average   w = (gamma + 1) / (gamma + t),  t = 1, 2, ...;   xbar <- (1 - w) xbar + w x_t      (w = 1 at t = 1)

Choices where the source leaves or contradicts itself:

* Weight decay is added to g, before its norm is taken.
* `init_eta` is the whole first step size, in the place of c r / sqrt(G), and makes r_rel 0, as in the package.
* A tensor without a gradient counts as one of gradient 0 and is not decayed; DoG measures its (zero) way nonetheless.
  The package fails there. L-DoG's t of a tensor is the number of calls, not of its gradients.
* G = 0 (gradients of 0 and eps = 0): the step is 0. The package refuses.
* The average is over the points after each step; x_0 has no weight.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class DoG:
    layerwise = False

    def __init__(
        self,
        params: Sequence[Array],
        *,
        r_rel: float = 1e-6,
        lr: float = 1.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        init_eta: float | None = None,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.r_rel = r_rel if init_eta is None else 0.0
        self.lr, self.eps, self.weight_decay, self.init_eta = lr, eps, weight_decay, init_eta
        self.origin = [p.copy() for p in self.params]
        one_each = [[i] for i in range(len(self.params))]
        self.blocks = one_each if self.layerwise else [list(range(len(self.params)))]
        self.r = [0.0] * len(self.blocks)
        self.G = [0.0] * len(self.blocks)
        self.eta = [0.0] * len(self.blocks)
        self.t = 0

    def step(self, grads: Sequence[Array | None]) -> None:
        full = [
            np.zeros_like(p) if g is None else g + self.weight_decay * p
            for g, p in zip(grads, self.params, strict=True)
        ]
        for b, block in enumerate(self.blocks):
            square = sum(float(np.sum(full[i] ** 2)) for i in block)
            if self.t == 0:
                self.r[b] = self.r_rel * (1 + sqrt(sum(float(np.sum(self.origin[i] ** 2)) for i in block)))
                self.G[b] = square + self.eps
            else:
                way = sqrt(sum(float(np.sum((self.params[i] - self.origin[i]) ** 2)) for i in block))
                self.r[b] = max(self.r[b], way)
                self.G[b] += square
            self.eta[b] = self.lr * self.r[b] / sqrt(self.G[b]) if self.G[b] > 0 else 0.0
            if self.t == 0 and self.init_eta is not None:
                self.eta[b] = self.init_eta
        for b, block in enumerate(self.blocks):
            for i in block:
                self.params[i] = self.params[i] - self.eta[b] * full[i]
        self.t += 1


class LDoG(DoG):
    layerwise = True


class PolynomialAverage:
    def __init__(self, gamma: float = 8.0) -> None:
        self.gamma = gamma
        self.t = 0
        self.average: list[Array] = []

    def update(self, params: Sequence[Array]) -> list[Array]:
        self.t += 1
        w = (self.gamma + 1) / (self.gamma + self.t)
        old = self.average if self.t > 1 else [np.zeros_like(p) for p in params]
        self.average = [(1 - w) * a + w * p for a, p in zip(old, params, strict=True)]
        return self.average
