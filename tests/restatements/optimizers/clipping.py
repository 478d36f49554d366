"""Coordinate-wise clipping of the largest coordinates, restated in float64 NumPy.

Y. Pan, Y. Li, "Toward Understanding Why Adam Converges Faster Than SGD for Transformers", arXiv:2306.00204 (2023), with
the details of the authors' sgd_clip.py and adam_clip.py.

    c = magnitude at the top-rho quantile of all coordinates of all tensors;   clip(g)_i = sign(g_i) min(|g_i|, c)
    SGD    b <- clip(g) at the first step, momentum b + clip(g) later;   theta <- theta - lr b
    Adam   m <- beta1 m + (1 - beta1) clip(g);   v <- beta2 v + (1 - beta2) g^2
           theta <- theta - lr [m / (1 - beta1^t)] / (sqrt(v / (1 - beta2^t)) + eps)

Choices where the source leaves or contradicts itself:

* The quantile of n coordinates is the one at place floor(rho n) of the magnitudes in falling order, counted from 0, as
  in the code: so many lie above it. It is computed in binary: floor(0.29 * 100) = 28.
* rho = 0: no clipping. rho = 1: c is the least magnitude, so that clip(g) = c sign(g) (0 if a coordinate is 0). The
  authors' code has c = 0 there and stands still.
* Momentum: torch's, as in the code. The shadow states of the diagnostic use momentum b + (1 - momentum) clip(g) after
  the first step (`dampening`), whose direction is another one.
* The single-tensor path of the authors' code does not clip at all: the paths that do are meant.
* Weight decay of SGD is added to the clipped gradient. That of Adam is of AdamW (old weights); default 0 for both.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def threshold(grads: Sequence[Array], rho: float) -> float:
    if not 0 < rho <= 1:
        raise ValueError(f"rho: 0 < rho <= 1 is allowed, got {rho}")
    magnitudes = np.sort(np.concatenate([np.abs(g).ravel() for g in grads]))[::-1]
    return float(magnitudes[min(int(rho * len(magnitudes)), len(magnitudes) - 1)])


def clip(grads: Sequence[Array], rho: float) -> list[Array]:
    """Clip all tensors together at their top fraction rho."""
    if rho == 0:
        return [np.array(g, np.float64) for g in grads]
    c = threshold(grads, rho)
    return [np.sign(g) * np.minimum(np.abs(g), c) for g in grads]


class ClippedSGD:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float,
        rho: float = 0.1,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.rho, self.momentum, self.dampening = lr, rho, momentum, dampening
        self.weight_decay = weight_decay
        self.b: list[Array] | None = None

    def step(self, grads: Sequence[Array]) -> None:
        clipped = [g + self.weight_decay * p for g, p in zip(clip(grads, self.rho), self.params, strict=True)]
        if self.b is None:
            self.b = clipped
        else:
            self.b = [self.momentum * b + (1 - self.dampening) * g for b, g in zip(self.b, clipped, strict=True)]
        self.params = [p - self.lr * b for p, b in zip(self.params, self.b, strict=True)]


class ClippedAdam:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        rho: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.rho, self.betas, self.eps, self.weight_decay = lr, rho, betas, eps, weight_decay
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.t = 0

    def step(self, grads: Sequence[Array]) -> None:
        beta1, beta2 = self.betas
        self.t += 1
        for i, (g, clipped) in enumerate(zip(grads, clip(grads, self.rho), strict=True)):
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * clipped
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m_hat = self.m[i] / (1 - beta1**self.t)
            v_hat = self.v[i] / (1 - beta2**self.t)
            decayed = (1 - self.lr * self.weight_decay) * self.params[i]
            self.params[i] = decayed - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)
