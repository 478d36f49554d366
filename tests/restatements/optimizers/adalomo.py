"""LOMO and AdaLomo, restated in float64 NumPy.

K. Lv, Y. Yang, T. Liu, Q. Gao, Q. Guo, X. Qiu, "Full Parameter Fine-tuning for Large Language Models with Limited
Resources", arXiv:2306.09782 (2023), and K. Lv, H. Yan, Q. Guo, H. Lv, X. Qiu, "AdaLomo: Low-memory Optimization with
Adaptive Learning Rate", arXiv:2310.10195 (2023); code: OpenLMLab/LOMO.

    LOMO:     theta <- (1 - lr weight_decay) theta - lr g

    AdaLomo:  b_t = 1 - t^decay_rate,  RMS(x) = sqrt(mean x^2), t = 1, 2, ...
              r   = b_t r + (1 - b_t) mean of (g^2 + eps[0]) over the columns
              c   = b_t c + (1 - b_t) mean of (g^2 + eps[0]) over the rows
              v   = r c^T / mean(r)           (one axis: v = b_t v + (1 - b_t) (g^2 + eps[0]))
              u   = g / sqrt(v),              u <- u / max(1, RMS(u) / clip_threshold)
              eta = lr max(eps[1], RMS(theta))
              theta <- (1 - eta weight_decay) theta - eta u

Both update a tensor as soon as its gradient is complete, within the backward pass, and free the gradient. As no
tensor's update asks for another's gradient, that is the same as to update after the pass. Clipping by the global norm
is the exception, for which LOMO needs a first pass for the norm alone.

Choices where the source leaves or contradicts itself:

* Tensors of more than two axes: the last two are factored, for each index of the others (to the code's means over axes
  -1 and -2; its buffers are made for two axes). Without axes: as with one.
* LOMO clips by value first, then multiplies by min(1, clip_grad_norm / (norm + 1e-6)), the norm being that of the
  gradients before clipping by value, over all tensors together.
* Loss scaling is left out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


class LOMO:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip_grad_norm = clip_grad_norm
        self.clip_grad_value = clip_grad_value

    def step(self, grads: Sequence[Array | None]) -> None:
        factor = 1.0
        if self.clip_grad_norm is not None:
            norm = np.sqrt(sum(float(np.sum(g**2)) for g in grads if g is not None))
            factor = min(1.0, self.clip_grad_norm / (norm + 1e-6))
        for i, g in enumerate(grads):
            if g is None:
                continue
            if self.clip_grad_value is not None:
                g = np.clip(g, -self.clip_grad_value, self.clip_grad_value)
            self.params[i] = (1 - self.lr * self.weight_decay) * self.params[i] - self.lr * factor * g


class AdaLomo:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        weight_decay: float = 0.0,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr = lr
        self.eps = eps
        self.clip_threshold = clip_threshold
        self.decay_rate = decay_rate
        self.weight_decay = weight_decay
        self.t = [0 for _ in self.params]
        self.r = [np.zeros(p.shape[:-1]) if p.ndim > 1 else None for p in self.params]
        self.c = [np.zeros(p.shape[:-2] + p.shape[-1:]) if p.ndim > 1 else None for p in self.params]
        self.v = [None if p.ndim > 1 else np.zeros_like(p) for p in self.params]

    def second_moment(self, tensor_index: int) -> Array:
        """Return v, of the shape of the tensor."""
        r, c, v = self.r[tensor_index], self.c[tensor_index], self.v[tensor_index]
        if r is None or c is None:
            return v
        return r[..., :, None] * c[..., None, :] / np.mean(r, axis=-1)[..., None, None]

    def step(self, grads: Sequence[Array | None]) -> None:
        for i, g in enumerate(grads):
            if g is None:
                continue
            theta = self.params[i]
            self.t[i] += 1
            beta_t = 1 - self.t[i] ** self.decay_rate
            squares = g**2 + self.eps[0]
            if theta.ndim > 1:
                self.r[i] = beta_t * self.r[i] + (1 - beta_t) * np.mean(squares, axis=-1)
                self.c[i] = beta_t * self.c[i] + (1 - beta_t) * np.mean(squares, axis=-2)
            else:
                self.v[i] = beta_t * self.v[i] + (1 - beta_t) * squares
            u = g / np.sqrt(self.second_moment(i))
            u = u / max(1.0, rms(u) / self.clip_threshold)
            eta = self.lr * max(self.eps[1], rms(theta))
            self.params[i] = (1 - eta * self.weight_decay) * theta - eta * u
