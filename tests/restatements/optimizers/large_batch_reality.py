"""LARS, LAMB and Nesterov momentum as compared at large batches, restated in float64 NumPy.

Z. Nado, J. M. Gilmer, C. J. Shallue, R. Anil, G. E. Dahl, "A Large Batch Optimizer Reality Check: Traditional, Generic
Optimizers Suffice Across Batch Sizes", arXiv:2102.06356 (2021). LARS: Y. You, I. Gitman, B. Ginsburg, "Large Batch
Training of Convolutional Networks", arXiv:1708.03888 (2017). LAMB: Y. You et al., "Large Batch Optimization for Deep
Learning: Training BERT in 76 minutes", arXiv:1904.00962 (2019). (The fourth, Adam, is Kingma and Ba's.)

    Nesterov:  v <- mu v + g,  w <- w - lr (g + mu v)
    LARS:      r = tau |w| / (|g| + lambda |w|),  v <- mu v + r (g + lambda w),  w <- w - lr v
    LAMB:      m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,  m^ and v^ corrected as in Adam
               u = m^ / (sqrt(v^) + eps) + lambda w,  w <- w - lr (|w| / |u|) u
    biases, normalisation:  neither ratio nor decay (r = 1 and lambda = 0; in LAMB |w| / |u| = 1 and lambda = 0)
    schedule:  linear from 0 to the peak in the warm-up, then (peak - final) (1 - progress)^power + final

A tensor is a layer; norms are Euclidean.

Choices where the source leaves or contradicts itself:

* The learning rate is outside LARS's buffer above. You et al. and the MLPerf code have it inside:
  v <- mu v + lr r (g + lambda w), w <- w - v. `lr_in_buffer=True` is that; it is the same while lr is constant, and not
  during warm-up and decay.
* LARS's ratio is 1 where |w| = 0 or |g| = 0, as in the MLPerf code, and its denominator has no eps (that code has
  1e-7). LAMB's ratio is 1 where |w| = 0 or |u| = 0, and the function phi around |w| is the identity, without bounds.
* Which tensors are biases or normalisation is told by `adapt`; without it, those of fewer than two dimensions.
* Weight decay of Nesterov momentum is an L2 term in g, before the buffer, as in the authors' framework.
* LARS: tau, mu and lambda are the defaults of the MLPerf code. LAMB: eps and lambda are those of You et al. A learning
  rate is not published as a default and must be given.
* In the schedule the steps are t = 1, ..., steps: the first has peak / warmup_steps (not 0), the last exactly final.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def learning_rate(
    t: int, *, steps: int, warmup_steps: int, peak: float, final: float = 0.0, power: float = 1.0
) -> float:
    if t <= warmup_steps:
        return peak * t / warmup_steps
    return final + (peak - final) * ((steps - t) / (steps - warmup_steps)) ** power


class NesterovMomentum:
    def __init__(self, params: Sequence[Array], *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.v = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        for i, grad in enumerate(grads):
            if grad is None:
                continue
            g = grad + self.weight_decay * self.params[i]
            self.v[i] = self.momentum * self.v[i] + g
            self.params[i] = self.params[i] - self.lr * (g + self.momentum * self.v[i])


class LARS:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        trust_coefficient: float = 1e-3,
        adapt: Sequence[bool] | None = None,
        lr_in_buffer: bool = False,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.trust_coefficient, self.lr_in_buffer = trust_coefficient, lr_in_buffer
        self.adapt = [p.ndim > 1 for p in self.params] if adapt is None else list(adapt)
        self.v = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        for i, g in enumerate(grads):
            if g is None:
                continue
            w = self.params[i]
            decay = self.weight_decay if self.adapt[i] else 0.0
            w_norm, g_norm = float(np.linalg.norm(w)), float(np.linalg.norm(g))
            r = 1.0
            if self.adapt[i] and w_norm > 0 and g_norm > 0:
                r = self.trust_coefficient * w_norm / (g_norm + decay * w_norm)
            if self.lr_in_buffer:
                self.v[i] = self.momentum * self.v[i] + self.lr * r * (g + decay * w)
                self.params[i] = w - self.v[i]
            else:
                self.v[i] = self.momentum * self.v[i] + r * (g + decay * w)
                self.params[i] = w - self.lr * self.v[i]


class LAMB:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        adapt: Sequence[bool] | None = None,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.adapt = [p.ndim > 1 for p in self.params] if adapt is None else list(adapt)
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            w = self.params[i]
            decay = self.weight_decay if self.adapt[i] else 0.0
            self.t[i] += 1
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m_hat = self.m[i] / (1 - beta1 ** self.t[i])
            v_hat = self.v[i] / (1 - beta2 ** self.t[i])
            u = m_hat / (np.sqrt(v_hat) + self.eps) + decay * w
            w_norm, u_norm = float(np.linalg.norm(w)), float(np.linalg.norm(u))
            ratio = w_norm / u_norm if self.adapt[i] and w_norm > 0 and u_norm > 0 else 1.0
            self.params[i] = w - self.lr * ratio * u
