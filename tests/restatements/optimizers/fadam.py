"""FAdam (Fisher Adam), restated in float64 NumPy.

D. Hwang, "FAdam: Adam is a natural gradient optimizer using diagonal empirical Fisher information",
arXiv:2405.12807 (2024); ports: kozistr/pytorch_optimizer, lessw2020/FAdam_PyTorch.

For each tensor, RMS(x) = sqrt(mean x^2), f_0 = m_0 = 0, t = 1, 2, ...:

    b2_t  = b2 (1 - b2^(t-1)) / (1 - b2^t)
    f     = b2_t f + (1 - b2_t) g^2                          diagonal Fisher information
    eps_t = eps min(1, RMS(g))
    n     = g / (f^p + eps_t),      n <- n / max(1, RMS(n) / clip)
    m     = b1 m + (1 - b1) n
    w     = theta / (f^p + eps_t),  w <- w / max(1, RMS(w) / clip)
    theta = theta - lr (m + weight_decay w)

Choices where the source leaves or contradicts itself:

* eps_t: the first versions of the paper and lessw2020 have min(eps, 0.01 RMS(g)) or the like; above is the later one.
* Clipping is by RMS / clip inside the maximum. Both ports write max(1, RMS) / clip, which also stretches what is
  shorter than clip; the two are one for clip = 1.
* Decay 0.001 is the paper's, the ports take 0.1 and 0.01.
* No bias correction of m: the first step is (1 - b1) lr sign(g).
* Where f^p + eps_t is zero (no gradient has been seen, and this one is all zero), n and w are zero.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


class FAdam:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-3,
        clip: float = 1.0,
        p: float = 0.5,
    ) -> None:
        self.params = [np.array(theta, dtype=np.float64) for theta in params]
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.clip = clip
        self.p = p
        self.t = [0 for _ in self.params]
        self.f = [np.zeros_like(theta) for theta in self.params]
        self.m = [np.zeros_like(theta) for theta in self.params]

    def preconditioned(self, x: Array, denominator: Array) -> Array:
        """Return x / denominator (0 where that is 0 / 0 or x / 0), clipped to an RMS of `clip`."""
        x = np.divide(x, denominator, out=np.zeros_like(x), where=denominator > 0)
        return x / max(1.0, rms(x) / self.clip)

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            theta = self.params[i]
            self.t[i] += 1
            t = self.t[i]
            beta2_t = beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
            self.f[i] = beta2_t * self.f[i] + (1 - beta2_t) * g**2
            eps_t = self.eps * min(1.0, rms(g))
            denominator = self.f[i] ** self.p + eps_t
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * self.preconditioned(g, denominator)
            w = self.preconditioned(theta, denominator)
            self.params[i] = theta - self.lr * (self.m[i] + self.weight_decay * w)
