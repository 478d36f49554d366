"""D-Adaptation: dual averaging, SGD and Adam, restated in float64 NumPy.

A. Defazio, K. Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", arXiv:2301.07733 (2023), with the details of
the authors' package 3.2. Norms and products run over all tensors together.

    dual averaging   gamma_0 = 1 / |g_0|;   step k:   s <- s + d_k g_k;   gamma_{k+1} = (sum_{i <= k} |g_i|^2)^-1/2
                     dhat = (gamma_{k+1} |s|^2 - sum_{i <= k} gamma_i d_i^2 |g_i|^2) / (2 |s|)
                     d_{k+1} = max(d_k, dhat);   x_{k+1} = x_0 - gamma_{k+1} s
                     output: the mean of x_0 ... x_k with the weights d_0 ... d_k
    SGD              lam = d lr / |g_0|;   num <- num + lam <g, s>;   s <- s + lam g;   dhat = 2 num / |s|
                     x <- beta x + (1 - beta) (x_0 - s);   d <- max(d, dhat)
    Adam             lam = d lr;   b = sqrt(beta2);   num <- b num + (1 - b) lam <g, s / (sqrt(v) + eps)>   (old s, v)
                     m <- beta1 m + (1 - beta1) lam g;   v <- beta2 v + (1 - beta2) g^2;   s <- b s + (1 - b) lam g
                     dhat = num / ((1 - b) |s|_1)
                     x <- x - m / (sqrt(v) + eps);   d <- max(d, dhat)

Choices where the source leaves or contradicts itself:

* SGD, dual form: x_0 is where the first step found the weights. Weight decay is a part of g everywhere, in |g_0| too;
  the line of the package that adds it there has no effect.
* Growth. d <- max(d, min(dhat, growth d)); growth is infinite by default.
* Adam, decay: added to g, or, `decouple`, x <- (1 - lam weight_decay) x before the step; default 0.
* Adam, bias correction (off): lam = d lr sqrt(1 - beta2^k) / (1 - beta1^k), k = 1, 2, ...
* s = 0 after the step (only zero gradients so far): nothing happens at all, and the step is not counted.
"""

from collections.abc import Sequence
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def dot(a: Sequence[Array], b: Sequence[Array]) -> float:
    return sum(float(np.sum(x * y)) for x, y in zip(a, b, strict=True))


class DualAveraging:
    """The form with the proof; `adapt=False` keeps d, which is then the true or guessed distance."""

    def __init__(self, x: Array, *, d0: float = 1e-6, adapt: bool = True) -> None:
        self.origin = np.array(x, np.float64)
        self.x = self.origin
        self.d, self.adapt = d0, adapt
        self.s = np.zeros_like(self.origin)
        self.squares, self.correction = 0.0, 0.0
        self.weighted, self.weight = np.zeros_like(self.origin), 0.0

    @property
    def output(self) -> Array:
        return np.asarray(self.weighted / self.weight)

    def step(self, g: Array) -> None:
        square = float(np.sum(g**2))
        if self.squares + square == 0:
            return
        self.weighted = self.weighted + self.d * self.x
        self.weight += self.d
        gamma = 1 / sqrt(self.squares) if self.squares > 0 else 1 / sqrt(square)
        self.correction += gamma * self.d**2 * square
        self.s = self.s + self.d * g
        self.squares += square
        gamma, norm = 1 / sqrt(self.squares), float(np.linalg.norm(self.s))
        if self.adapt and norm > 0:
            self.d = max(self.d, (gamma * norm**2 - self.correction) / (2 * norm))
        self.x = self.origin - gamma * self.s


class DAdaptSGD:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        growth: float = inf,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.momentum, self.weight_decay, self.growth = lr, momentum, weight_decay, growth
        self.origin = [p.copy() for p in self.params]
        self.s = [np.zeros_like(p) for p in self.params]
        self.d, self.num, self.first_norm = d0, 0.0, 0.0

    def step(self, grads: Sequence[Array]) -> None:
        decayed = [g + self.weight_decay * p for g, p in zip(grads, self.params, strict=True)]
        if self.first_norm == 0:
            self.first_norm = sqrt(dot(decayed, decayed))
        if self.first_norm == 0:
            return
        lam = self.d * self.lr / self.first_norm
        self.num += lam * dot(decayed, self.s)
        self.s = [s + lam * g for s, g in zip(self.s, decayed, strict=True)]
        norm = sqrt(dot(self.s, self.s))
        if norm > 0:
            self.d = max(self.d, min(2 * self.num / norm, self.growth * self.d))
        beta = self.momentum
        self.params = [
            beta * p + (1 - beta) * (o - s) for p, o, s in zip(self.params, self.origin, self.s, strict=True)
        ]


class DAdaptAdam:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decouple: bool = False,
        bias_correction: bool = False,
        d0: float = 1e-6,
        growth: float = inf,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.betas, self.eps, self.growth = lr, betas, eps, growth
        self.weight_decay, self.decouple, self.bias_correction = weight_decay, decouple, bias_correction
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.s = [np.zeros_like(p) for p in self.params]
        self.d, self.num, self.k = d0, 0.0, 0

    def step(self, grads: Sequence[Array]) -> None:
        (beta1, beta2), b = self.betas, sqrt(self.betas[1])
        coupled = 0.0 if self.decouple else self.weight_decay
        g = [g + coupled * p for g, p in zip(grads, self.params, strict=True)]
        if not any(np.any(x) for x in (*g, *self.s)):
            return
        self.k += 1
        lam = self.d * self.lr
        if self.bias_correction:
            lam *= sqrt(1 - beta2**self.k) / (1 - beta1**self.k)
        scaled = [s / (np.sqrt(v) + self.eps) for s, v in zip(self.s, self.v, strict=True)]
        self.num = b * self.num + (1 - b) * lam * dot(g, scaled)
        self.m = [beta1 * m + (1 - beta1) * lam * x for m, x in zip(self.m, g, strict=True)]
        self.v = [beta2 * v + (1 - beta2) * x**2 for v, x in zip(self.v, g, strict=True)]
        self.s = [b * s + (1 - b) * lam * x for s, x in zip(self.s, g, strict=True)]
        norm = sum(float(np.sum(np.abs(s))) for s in self.s)
        if norm > 0:
            self.d = max(self.d, min(self.num / ((1 - b) * norm), self.growth * self.d))
        kept = 1 - lam * self.weight_decay if self.decouple else 1.0
        self.params = [
            kept * p - m / (np.sqrt(v) + self.eps) for p, m, v in zip(self.params, self.m, self.v, strict=True)
        ]
