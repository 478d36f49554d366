"""AdaMod, restated in float64 NumPy.

J. Ding, X. Ren, R. Luo, X. Sun, "An Adaptive and Momental Bound Method for Stochastic Learning", arXiv:1910.12249
(2019); the rule of the authors' code.

    m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
    eta = lr sqrt(1 - beta2^t) / (1 - beta1^t) / (sqrt(v) + eps)
    s <- beta3 s + (1 - beta3) eta                                       s = 0 at first, never corrected for it
    theta <- (1 - lr weight_decay) theta - min(eta, s) m

Choices where the source leaves or contradicts itself:

* The paper averages another rate: eta = lr / (sqrt(v^) + eps), theta <- theta - min(eta, s) m^ with corrected m^ and v^
  (`paper_form=True`). This is a different method, not a rearrangement: the code's eta has 1 / (1 - beta1^t) in it, and
  so its s is larger for the first 1 / (1 - beta1) steps or so. With a constant gradient the second step is
  (1 - beta3) (1 + beta3) times Adam's in the paper and (1 - beta3) (1 + beta3 (1 + beta1)) times in the code. The
  first step and beta3 = 0 agree but for eps.
* beta3 (gamma in the code) is 0.999 by default as in the code; its docstring says 0.9999.
* Weight decay (code only) is decoupled, on theta before the step.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class AdaMod:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        paper_form: bool = False,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.beta3, self.eps = lr, betas, beta3, eps
        self.weight_decay, self.paper_form = weight_decay, paper_form
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.s = [np.zeros_like(p) for p in self.params]
        self.eta = [np.zeros_like(p) for p in self.params]
        """The last rate of each tensor before the bound, for tests to look at."""

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            t = self.t[i]
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            if self.paper_form:
                m = self.m[i] / (1 - beta1**t)
                self.eta[i] = self.lr / (np.sqrt(self.v[i] / (1 - beta2**t)) + self.eps)
            else:
                m = self.m[i]
                self.eta[i] = self.lr * sqrt(1 - beta2**t) / (1 - beta1**t) / (np.sqrt(self.v[i]) + self.eps)
            self.s[i] = self.beta3 * self.s[i] + (1 - self.beta3) * self.eta[i]
            bounded = np.minimum(self.eta[i], self.s[i])
            self.params[i] = (1 - self.lr * self.weight_decay) * self.params[i] - bounded * m
