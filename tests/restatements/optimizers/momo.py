"""MoMo and MoMo-Adam, restated in float64 NumPy.

F. Schaipp, R. Ohana, M. Eickenberg, A. Defazio, R. M. Gower, "MoMo: Momentum Models for Adaptive Learning Rates",
arXiv:2305.07583 (2023), with the details of the authors' package 0.1.0.

    f: loss of the batch at x, g its gradient, <., .> and |.| over all tensors together, lam: weight decay
    d <- beta d + (1 - beta) g;   fbar <- beta fbar + (1 - beta) f;   gamma <- beta gamma + (1 - beta) <g, x>
    MoMo:      d = g, fbar = f, gamma = <g, x> at the first step;   rho = 1;   D = 1
    MoMo-Adam: all from 0;   v <- beta2 v + (1 - beta2) g^2;   rho = 1 - beta1^t;   D = sqrt(v / (1 - beta2^t)) + eps
    tau = min( alpha / rho,  max(0, (1 + alpha lam) (fbar - rho f* - gamma) + <d, x>) / <d, D^-1 d> )
    x  <- (x - tau D^-1 d) / (1 + alpha lam)

    estimate of f*, started at f*_0:
    before tau:   cap = (1 + alpha lam) (fbar - gamma) + <d, x>
                  if cap < (1 + alpha lam) rho f*:   f* <- max(cap / (2 (1 + alpha lam) rho), f*_0)
    after tau:    f* <- max((fbar + <d, x> - gamma - tau <d, D^-1 d> / 2) / rho, f*_0)

Choices where the source leaves or contradicts itself:

* MoMo with `bias_correction` starts from 0 and has rho = 1 - beta^t, as the package offers.
* The scaling D is of this step (v after g), the weights in <d, x> and <g, x> those before the step.
* d = 0: the quotient is 0 / 0 or infinite; whatever it is, tau d = 0 and tau <d, D^-1 d> = 0, and x decays.
* The AdamW form of the decay that the package offers (`divide=False`) is left out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def dot(a: Sequence[Array], b: Sequence[Array]) -> float:
    return sum(float(np.sum(x * y)) for x, y in zip(a, b, strict=True))


class _Model:
    """The averages d, fbar, gamma, the step size tau and the estimate of f*."""

    def __init__(
        self, params: Sequence[Array], *, lr: float, weight_decay: float, lower_bound: float, estimate: bool
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.weight_decay = lr, weight_decay
        self.first_bound, self.lower_bound, self.estimate = lower_bound, lower_bound, estimate
        self.d = [np.zeros_like(p) for p in self.params]
        self.fbar, self.gamma, self.tau, self.t = 0.0, 0.0, 0.0, 0

    def average(self, beta: float, grads: Sequence[Array], loss: float) -> None:
        self.d = [beta * d + (1 - beta) * g for d, g in zip(self.d, grads, strict=True)]
        self.fbar = beta * self.fbar + (1 - beta) * loss
        self.gamma = beta * self.gamma + (1 - beta) * dot(grads, self.params)

    def move(self, rho: float, scales: Sequence[Array]) -> None:
        grown = 1 + self.lr * self.weight_decay if self.weight_decay else 1.0
        direction = [d / s for d, s in zip(self.d, scales, strict=True)]
        norm, inner = dot(self.d, direction), dot(self.d, self.params)
        cap = grown * (self.fbar - self.gamma) + inner
        if self.estimate and cap < grown * rho * self.lower_bound:
            self.lower_bound = max(cap / (2 * grown * rho), self.first_bound)
        gain = max(0.0, cap - grown * rho * self.lower_bound)
        self.tau = min(self.lr / rho, gain / norm) if norm > 0 else self.lr / rho
        if self.estimate:
            model = self.fbar + inner - self.gamma
            self.lower_bound = max((model - self.tau * norm / 2) / rho, self.first_bound)
        self.params = [(p - self.tau * u) / grown for p, u in zip(self.params, direction, strict=True)]


class MoMo(_Model):
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1.0,
        beta: float = 0.9,
        weight_decay: float = 0.0,
        lower_bound: float = 0.0,
        estimate: bool = False,
        bias_correction: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, lower_bound=lower_bound, estimate=estimate)
        self.beta, self.bias_correction = beta, bias_correction

    def step(self, grads: Sequence[Array], loss: float) -> None:
        self.t += 1
        start = self.t == 1 and not self.bias_correction
        self.average(0.0 if start else self.beta, grads, loss)
        rho = 1 - self.beta**self.t if self.bias_correction else 1.0
        self.move(rho, [np.ones_like(p) for p in self.params])


class MoMoAdam(_Model):
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lower_bound: float = 0.0,
        estimate: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, lower_bound=lower_bound, estimate=estimate)
        self.betas, self.eps = betas, eps
        self.v = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array], loss: float) -> None:
        beta1, beta2 = self.betas
        self.t += 1
        self.average(beta1, grads, loss)
        self.v = [beta2 * v + (1 - beta2) * g**2 for v, g in zip(self.v, grads, strict=True)]
        self.move(1 - beta1**self.t, [np.sqrt(v / (1 - beta2**self.t)) + self.eps for v in self.v])
