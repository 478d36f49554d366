"""UPGD, restated in float64 NumPy.

M. Elsayed, A. R. Mahmood, "Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning",
ICLR 2024, arXiv:2404.00781 (2024); code: mohmdelsayed/upgd (README and core/optim/weight_upgd).

    u = -g w                                     (second order: -g w + h w^2 / 2, h the diagonal of the Hessian)
    U <- beta_utility U + (1 - beta_utility) u,  U^ = U / (1 - beta_utility^t)
    eta = the largest entry of U over all tensors of this step
    Ubar = sigmoid(U^ / eta)                     (local: sigmoid(U^ / |U^|_2), norm along the last dimension)
    w <- (1 - lr lam) w - 2 lr (g + xi) (1 - Ubar),       xi ~ N(0, sigma^2)
    not protecting: w <- (1 - lr lam) w - lr (g + xi (1 - Ubar))

Choices where the source leaves or contradicts itself:

* The factor 2 is the README's; a weight without utility then moves as by SGD. The code of the experiments has lr
  instead of 2 lr, which is this rule at half the rate and twice the decay. The variant that does not protect has no
  factor, as its gradient is not scaled.
* eta: the code takes the largest U, not the largest U^, and divides U^ by it, so that early on
  Ubar = sigmoid(1 / (1 - beta_utility^t)) for the most useful weight: fully protected for many steps. Followed;
  `corrected_maximum` divides by the largest U^ instead.
* eta < 0 turns the order of the weights round; followed. eta = 0: the code has 0 / 0; here Ubar = 1/2.
* A tensor without a gradient takes no part in the maximum.
* Local: F.normalize's lower bound 1e-12 on the norm.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Noise = Callable[[int, int, tuple[int, ...]], Array]
"""(tensor index, t counted from 1, shape) -> standard normal numbers; multiplied by sigma here."""


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


class UPGD:
    """For the second-order utility: `step(grads, hessian_diagonals)`."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-5,
        weight_decay: float = 0.001,
        beta_utility: float = 0.999,
        sigma: float = 0.001,
        noise: Noise | None = None,
        protecting: bool = True,
        local: bool = False,
        corrected_maximum: bool = False,
    ) -> None:
        if sigma != 0.0 and noise is None:
            raise ValueError("noise: needed unless sigma is 0")
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.weight_decay, self.beta_utility, self.sigma = lr, weight_decay, beta_utility, sigma
        self.noise, self.protecting, self.local = noise, protecting, local
        self.corrected_maximum = corrected_maximum
        self.t = [0 for _ in self.params]
        self.U = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None], hessian_diagonals: Sequence[Array | None] | None = None) -> None:
        beta = self.beta_utility
        U_hat: dict[int, Array] = {}
        for i, g in enumerate(grads):
            if g is None:
                continue
            w = self.params[i]
            u = -g * w
            if hessian_diagonals is not None:
                u = u + 0.5 * hessian_diagonals[i] * w**2
            self.t[i] += 1
            self.U[i] = beta * self.U[i] + (1.0 - beta) * u
            U_hat[i] = self.U[i] / (1.0 - beta ** self.t[i])
        eta = max((np.max(U_hat[i] if self.corrected_maximum else self.U[i]) for i in U_hat), default=0.0)
        for i in U_hat:
            g = grads[i]
            U_bar = self._scaled(U_hat[i], eta)
            xi = self.sigma * self.noise(i, self.t[i], g.shape) if self.noise is not None else np.zeros_like(g)
            if self.protecting:
                move = 2.0 * (g + xi) * (1.0 - U_bar)
            else:
                move = g + xi * (1.0 - U_bar)
            self.params[i] = (1.0 - self.lr * self.weight_decay) * self.params[i] - self.lr * move

    def _scaled(self, U_hat: Array, eta: float) -> Array:
        if self.local:
            rows = np.atleast_1d(U_hat)
            norm = np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
            return sigmoid((rows / norm).reshape(np.shape(U_hat)))
        if eta == 0.0:
            return np.full_like(U_hat, 0.5)
        return sigmoid(U_hat / eta)
