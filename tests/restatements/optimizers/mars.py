"""MARS (AdamW, Lion and Shampoo form; exact and approximate), restated in float64 NumPy.

H. Yuan, Y. Liu, S. Wu, X. Zhou, Q. Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models",
arXiv:2411.10438 (2024); code: AGI-Arena/MARS.

    g_t = grad f(w_t, xi_t);  h_t = grad f(w_{t-1}, xi_t) (exact)  or  h_t = g_{t-1} (approximate);  h_1 = 0
    c = g_t + gamma beta1 / (1 - beta1) (g_t - h_t)
    c~ = c / max(1, |c|_2)                                                        per tensor
    m = beta1 m + (1 - beta1) c~
    adamw:    v = beta2 v + (1 - beta2) c~^2
              w <- w - lr ((m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) + lam w)
    lion:     w <- w - lr (sign(m) + lam w)
    shampoo:  w <- w - lr (sqrt(max(1, rows / columns)) NS5(m / (1 - beta1)) + lam w)
    NS5:      X = M / (|M|_F + eps), transposed if it has more rows than columns; five times
              X <- a X + (b A + c A^2) X,  A = X X^T,  (a, b, c) = (3.4445, -4.7750, 2.0315)
    Tensors that are not matrices: AdamW on g_t with lr_1d, betas_1d, weight_decay_1d.

Choices where the source leaves or contradicts itself:

* v: the README squares the gradient, paper and code square c~. The latter.
* h_1: the code has 0, so that c = (1 + gamma beta1 / (1 - beta1)) g_1. For h_1 = g_1 in the exact form, pass g_1.
* Not matrices: the code tests for two dimensions, so kernels of convolutions go to AdamW as well.
* lr_1d: the code keeps the quotient lr_1d / lr of the start; AdamW's rate follows the schedule of lr.
* With optimize_1d all tensors take c~, with lr and weight_decay; the shampoo form uses the adamw form for those that
  are not matrices.
* weight_decay 0 and weight_decay_1d 0.1 are the code's defaults.
* NS5 is done in bfloat16 in the code, in float64 here.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def newton_schulz(M: Array, *, steps: int = 5, eps: float = 1e-7) -> Array:
    """Return an approximation of U V^T for M = U S V^T [rows, columns]: singular values between about 0.7 and 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    X = M / (np.linalg.norm(M) + eps)
    tall = M.shape[0] > M.shape[1]
    if tall:
        X = X.T
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X.T if tall else X


class MARS:
    """Exact form (`is_approx=False`): `step(grads, previous_grads)`, the latter on this batch at the point before."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        gamma: float = 0.025,
        is_approx: bool = True,
        form: Literal["adamw", "lion", "shampoo"] = "adamw",
        optimize_1d: bool = False,
        lr_1d: float = 3e-3,
        betas_1d: tuple[float, float] = (0.9, 0.95),
        weight_decay_1d: float = 0.1,
    ) -> None:
        if form not in ("adamw", "lion", "shampoo"):
            raise ValueError(f"form: adamw, lion or shampoo, got {form!r}")
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps, self.weight_decay, self.gamma = lr, betas, eps, weight_decay, gamma
        self.is_approx, self.form, self.optimize_1d = is_approx, form, optimize_1d
        self.lr_1d_factor, self.betas_1d, self.weight_decay_1d = lr_1d / lr, betas_1d, weight_decay_1d
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.last_grad = [np.zeros_like(p) for p in self.params]
        """g_{t-1}, used by the approximate form."""

    def step(self, grads: Sequence[Array | None], previous_grads: Sequence[Array | None] | None = None) -> None:
        """Step; in the exact form `previous_grads` (or an entry) may be None in a tensor's first step only: h_1 = 0."""
        if self.is_approx and previous_grads is not None:
            raise ValueError("previous_grads: only for the exact form (is_approx=False)")
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            if self.is_approx:
                h = self.last_grad[i]
            else:
                h = None if previous_grads is None else previous_grads[i]
                if h is None and self.t[i] > 1:
                    raise ValueError("previous_grads: needed from the second step on")
                if h is None:
                    h = np.zeros_like(g)
            if self.optimize_1d or g.ndim == 2:
                self._mars(i, g, h)
            else:
                self._adamw(i, g)
            self.last_grad[i] = g.copy()

    def _mars(self, i: int, g: Array, h: Array) -> None:
        beta1, beta2 = self.betas
        w, t = self.params[i], self.t[i]
        c = g + self.gamma * beta1 / (1.0 - beta1) * (g - h)
        c = c / max(1.0, float(np.linalg.norm(c)))
        self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * c
        if self.form == "lion":
            update = np.sign(self.m[i])
        elif self.form == "shampoo" and g.ndim == 2:
            rows, columns = g.shape
            update = max(1.0, rows / columns) ** 0.5 * newton_schulz(self.m[i] / (1.0 - beta1), eps=self.eps)
        else:
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * c**2
            update = self.m[i] / (1.0 - beta1**t) / (np.sqrt(self.v[i] / (1.0 - beta2**t)) + self.eps)
        self.params[i] = w - self.lr * (update + self.weight_decay * w)

    def _adamw(self, i: int, g: Array) -> None:
        beta1, beta2 = self.betas_1d
        w, t = self.params[i], self.t[i]
        self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g
        self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g**2
        update = self.m[i] / (1.0 - beta1**t) / (np.sqrt(self.v[i] / (1.0 - beta2**t)) + self.eps)
        self.params[i] = w - self.lr * self.lr_1d_factor * (update + self.weight_decay_1d * w)
