"""Ranger21, restated in float64 NumPy.

L. Wright, N. Demeure, "Ranger21: a synergistic deep learning optimizer", arXiv:2106.13731 (2021);
code: lessw2020/Ranger21, and nestordemeure/flaxOptimizers by the second author, which is closer to the paper.

r is an output unit of a tensor: an index of the first axis, or the whole of a tensor with less than two axes.

    g_r  <- g_r tau max(|theta_r|, eps_clipping) / |g_r|  where that shortens g_r     adaptive gradient clipping
    g    <- g - mean over all axes but the first, for two axes and more               gradient centralisation
    m_t   = b1^2 m_{t-2} + (1 - b1^2) g,   m_{-1} = m_0 = 0                           positive-negative momentum
    m^    = ((1 + b0) m_t - b0 m_{t-1}) / (1 - b1^t)
    v     = b2 v + (1 - b2) g^2,   v_max = max(v_max, v),   v^ = v_max / (1 - b2^t)
    u     = m^ / (sqrt((1 + b0)^2 + b0^2) (sqrt(v^) + eps))
    eta   = lr min(1, max(t (1 - b2) / 2, t / t_warmup), (t_max - t) / t_warmdown)
    d_r   = eta / sqrt(mean of v^ over all tensors) weight_decay (1 - 1 / |theta_r|) theta_r
    theta <- theta - eta u - d                                                        d at the old theta
    every k steps:  slow <- b_lookahead slow + (1 - b_lookahead) theta,  theta <- slow;  slow starts as theta_0

Choices where the source leaves or contradicts itself (P paper, read mostly through D as its
full text was not at hand, W the first author's code, D the second author's):

* P where W and D go further: no division of g by its standard deviation, no softplus of the denominator.
* b0 = 0.9 (P, D). W takes the flag that turns it on for b0, i.e. 1, and b2 for b0 in the norm of the noise.
* v^ from the maximum (P, D), also in d (D). W overwrites v with the maximum and never stores it: no maximum at all.
* Stable decay and norm loss are one term (P, D). W has two, the latter with a factor 2, and as its loop variable is
  stale applies both only to the last tensor of a group.
* The mean in d is over all entries of all tensors that have a gradient in this step (P, W); D takes it by tensor.
* The warm-up is the shorter one of 2 / (1 - b2) and t_warmup = 0.22 t_max (P, D). W takes the second only if the first
  is more than 0.45 t_max. The end is 0 (P, D), not 3e-5 (W), and eta stays 0 after t_max, where the formula turns
  negative. t_warmdown = 0.28 t_max. Neither is rounded.
* t is the tensor's own number of steps, in eta and the lookahead too; it is that of the run if no gradient is None.
* Units of three axes: W and D take norms over the second axis only; here over all axes but the first.
* d is zero for a unit that is zero, and for all as long as all v^ are zero.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def unit_norm(x: Array) -> Array:
    """Return |x_r|, shaped to broadcast against x."""
    axes = tuple(range(1, x.ndim)) if x.ndim > 1 else None
    return np.sqrt(np.sum(x**2, axis=axes, keepdims=True))


def clipped(g: Array, theta: Array, tau: float, eps: float) -> Array:
    """Return g with |g_r| <= tau max(|theta_r|, eps)."""
    norm, limit = unit_norm(g), tau * np.maximum(unit_norm(theta), eps)
    return g * np.divide(limit, norm, out=np.ones_like(norm), where=norm > limit)


def centralised(g: Array) -> Array:
    return g - np.mean(g, axis=tuple(range(1, g.ndim)), keepdims=True) if g.ndim > 1 else g


class Ranger21:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        t_max: int,
        lr: float = 1e-3,
        beta0: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-4,
        tau_clipping: float = 1e-2,
        eps_clipping: float = 1e-3,
        k_lookahead: int = 5,
        beta_lookahead: float = 0.5,
        t_warmup: float | None = None,
        t_warmdown: float | None = None,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.t_max = t_max
        self.lr = lr
        self.beta0 = beta0
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.tau_clipping = tau_clipping
        self.eps_clipping = eps_clipping
        self.k_lookahead = k_lookahead
        self.beta_lookahead = beta_lookahead
        self.t_warmup = 0.22 * t_max if t_warmup is None else t_warmup
        self.t_warmdown = 0.28 * t_max if t_warmdown is None else t_warmdown
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.m_before = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.v_max = [np.zeros_like(p) for p in self.params]
        self.slow = [p.copy() for p in self.params]

    def eta(self, t: int) -> float:
        """Return the learning rate of step t = 1, 2, ..."""
        warmup = max(t * (1 - self.betas[1]) / 2, t / self.t_warmup)
        warmdown = (self.t_max - t) / self.t_warmdown
        return self.lr * max(0.0, min(1.0, warmup, warmdown))

    def step(self, grads: Sequence[Array | None]) -> None:
        beta0, (beta1, beta2) = self.beta0, self.betas
        prepared: dict[int, Array] = {}
        v_hat: dict[int, Array] = {}
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            g = centralised(clipped(g, self.params[i], self.tau_clipping, self.eps_clipping))
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            self.v_max[i] = np.maximum(self.v_max[i], self.v[i])
            v_hat[i] = self.v_max[i] / (1 - beta2 ** self.t[i])
            prepared[i] = g
        entries = sum(v.size for v in v_hat.values())
        mean_v_hat = sum(float(np.sum(v)) for v in v_hat.values()) / entries if entries else 0.0

        for i, g in prepared.items():
            t, theta, eta = self.t[i], self.params[i], self.eta(self.t[i])
            m = beta1**2 * self.m_before[i] + (1 - beta1**2) * g
            m_hat = ((1 + beta0) * m - beta0 * self.m[i]) / (1 - beta1**t)
            self.m_before[i], self.m[i] = self.m[i], m
            u = m_hat / (np.hypot(1 + beta0, beta0) * (np.sqrt(v_hat[i]) + self.eps))
            theta = theta - eta * u - self.decay(self.params[i], eta, mean_v_hat)
            if t % self.k_lookahead == 0:
                self.slow[i] = self.beta_lookahead * self.slow[i] + (1 - self.beta_lookahead) * theta
                theta = self.slow[i].copy()
            self.params[i] = theta

    def decay(self, theta: Array, eta: float, mean_v_hat: float) -> Array:
        """Return d: stable weight decay towards units of norm one."""
        if mean_v_hat == 0:
            return np.zeros_like(theta)
        norm = unit_norm(theta)
        of_norm_one = np.divide(theta, norm, out=np.zeros_like(theta), where=norm > 0)
        return eta / np.sqrt(mean_v_hat) * self.weight_decay * (theta - of_norm_one)
