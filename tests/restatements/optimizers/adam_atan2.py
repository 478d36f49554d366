"""Adam-atan2, restated in float64 NumPy.

K. Everett, L. Xiao, M. Wortsman, A. A. Alemi, R. Novak, P. J. Liu, I. Gur, J. Sohl-Dickstein, L. P. Kaelbling, J. Lee,
J. Pennington, "Scaling Exponents Across Parameterizations and Optimizers", ICML 2024, arXiv:2407.05872 (2024);
code of others: lucidrains/adam-atan2-pytorch.

    m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
    m^ = m / (1 - beta1^t),        v^ = v / (1 - beta2^t)
    w <- (1 - lr lam) w - lr a atan2(m^, b sqrt(v^))            atan2(0, 0) = 0

There is no eps. |step| <= lr a pi / 2; with a = 4 / pi, b = 1 it is lr where |m^| = sqrt(v^).

Choices where the source leaves or contradicts itself:

* Constants: a = b = 1 is the plain form and the default here, with Adam's betas and rate; the code named above has
  a = 1.27, lr = 1e-4, betas (0.9, 0.99).
* Decay: AdamW's. The code named above takes lam lr_t / lr_0 instead of lam lr_t.
* m^ stands inside atan2. Another public kernel divides by 1 - beta1^t outside; that is a different rule.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class AdamAtan2:
    """Adam with atan2 for the division, so that the scale of the gradient does not matter."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        a: float = 1.0,
        b: float = 1.0,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.weight_decay, self.a, self.b = lr, betas, weight_decay, a, b
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            t = self.t[i]
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g**2
            m_hat = self.m[i] / (1.0 - beta1**t)
            v_hat = self.v[i] / (1.0 - beta2**t)
            w = (1.0 - self.lr * self.weight_decay) * self.params[i]
            self.params[i] = w - self.lr * self.a * np.arctan2(m_hat, self.b * np.sqrt(v_hat))
