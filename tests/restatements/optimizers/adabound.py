"""AdaBound and AMSBound, restated in float64 NumPy.

L. Luo, Y. Xiong, Y. Liu, X. Sun, "Adaptive Gradient Methods with Dynamic Bound of Learning Rate", ICLR 2019,
arXiv:1902.09843; the rule of the authors' code.

    m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2;   AMSBound: V <- max(V, v), AdaBound: V = v
    rate  = lr sqrt(1 - beta2^t) / (1 - beta1^t) / (sqrt(V) + eps)
    f     = final_lr * (lr now / lr at first)
    lower = f (1 - 1 / (gamma t + 1)),  upper = f (1 + 1 / (gamma t))
    theta <- theta - clip(rate, lower, upper) m

Choices where the source leaves or contradicts itself:

* The printed Algorithms 2 and 3 have no bias correction and no gamma, and divide the clipped rate by sqrt(t):
  theta <- theta - clip(lr / sqrt(V), lower, upper) / sqrt(t) m. `theory_form=True` is that (with eps beside the root,
  and without a projection: clip `params` after the step). The paper's example bounds are those above with
  gamma = 1 - beta2.
* The band multiplies the raw m, also where the rate has the correction 1 / (1 - beta1^t) in it: with the band closed
  the first steps are (1 - beta1^t) times a full SGD step.
* f follows lr, as in the code, so that a schedule on lr scales the band as well; the lr at first is the argument's.
* Weight decay (code only) is an L2 term in g.
* gamma must be > 0 (the code asks for 0 <= gamma < 1 and divides by gamma t); nothing is asked here.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class AdaBound:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        theory_form: bool = False,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.final_lr, self.gamma, self.eps = lr, betas, final_lr, gamma, eps
        self.weight_decay, self.theory_form = weight_decay, theory_form
        self.first_lr = lr
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]

    def scale(self, i: int) -> Array:
        """V, what the rate of tensor i is divided by the root of."""
        return self.v[i]

    def bounds(self, t: int) -> tuple[float, float]:
        f = self.final_lr * (self.lr / self.first_lr)
        return f * (1 - 1 / (self.gamma * t + 1)), f * (1 + 1 / (self.gamma * t))

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, grad in enumerate(grads):
            if grad is None:
                continue
            self.t[i] += 1
            t = self.t[i]
            g = grad + self.weight_decay * self.params[i]
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            correction = 1.0 if self.theory_form else sqrt(1 - beta2**t) / (1 - beta1**t)
            rate = np.clip(self.lr * correction / (np.sqrt(self.scale(i)) + self.eps), *self.bounds(t))
            if self.theory_form:
                rate = rate / sqrt(t)
            self.params[i] = self.params[i] - rate * self.m[i]


class AMSBound(AdaBound):
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        theory_form: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            final_lr=final_lr,
            gamma=gamma,
            eps=eps,
            weight_decay=weight_decay,
            theory_form=theory_form,
        )
        self.v_max = [np.zeros_like(p) for p in self.params]

    def scale(self, i: int) -> Array:
        self.v_max[i] = np.maximum(self.v_max[i], self.v[i])
        return self.v_max[i]
