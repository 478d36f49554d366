"""ADOPT, restated in float64 NumPy.

S. Taniguchi, K. Harada, G. Minegishi, Y. Oshima, S. C. Jeong, G. Nagahara, T. Iiyama, M. Suzuki, Y. Iwasawa,
Y. Matsuo, "ADOPT: Modified Adam Can Converge with Any beta_2 with the Optimal Rate", NeurIPS 2024,
arXiv:2411.02853 (2024); code: iShohei220/adopt.

    t = 0: v = g_0^2, m = 0, w unchanged
    t = 1, 2, ...:
        n = g_t / max(sqrt(v), eps),  then clipped per entry to [-c_t, c_t],  c_t = t^(1/4)
        m = beta1 m + (1 - beta1) n
        w <- w - lr m
        v = beta2 v + (1 - beta2) g_t^2                     last, after v has been used
    weight decay: g_t <- g_t + lam w before everything (default), or with decouple w <- (1 - lr lam) w before the step

No bias correction. t counts the gradients of each tensor by itself.

Choices where the source leaves or contradicts itself:

* The clipping came with the second version; `clip_lambda=None` is the first.
* Step 0: the code leaves it before the decoupled decay, so w does not change at all; the coupled decay is in g_0.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ADOPT:
    """Adam that normalises by the second moment before this gradient, and before averaging."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        clip_lambda: Callable[[int], float] | None = lambda t: t**0.25,
        weight_decay: float = 0.0,
        decouple: bool = False,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps, self.clip_lambda = lr, betas, eps, clip_lambda
        self.weight_decay, self.decouple = weight_decay, decouple
        self.t = [0 for _ in self.params]
        """Gradients seen so far; the next one is g_t."""
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            t = self.t[i]
            self.t[i] += 1
            if not self.decouple:
                g = g + self.weight_decay * self.params[i]
            if t == 0:
                self.v[i] = g**2
                continue
            n = g / np.maximum(np.sqrt(self.v[i]), self.eps)
            if self.clip_lambda is not None:
                c = self.clip_lambda(t)
                n = np.clip(n, -c, c)
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * n
            if self.decouple:
                self.params[i] = (1.0 - self.lr * self.weight_decay) * self.params[i]
            self.params[i] = self.params[i] - self.lr * self.m[i]
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g**2
