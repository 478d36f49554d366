"""1-bit Adam, restated in float64 NumPy.

H. Tang, S. Gan, A. A. Awan, S. Rajbhandari, C. Li, X. Lian, J. Liu, C. Zhang, Y. He, "1-bit Adam: Communication
Efficient Large-Scale Training with Adam's Convergence Speed", arXiv:2102.02888 (2021); code: microsoft/DeepSpeed,
runtime/fp16/onebit/adam.py and runtime/comm/nccl.py.

    t <= T_w:   Adam on g = mean_i g_i;   at T_w keep v for good
    then:       worker i:  u_i = beta1 m + (1 - beta1) g_i + e_i,   q_i = C(u_i),   e_i <- u_i - q_i     sent: q_i
                server:    u = mean_i q_i + e,   m <- C(u),   e <- u - m                                 sent: m
                all:       m <- m [v > 0],   x <- x - lr m / (sqrt(v) + eps)

    C(u) = sign(u) |u|_2 / sqrt(d) for each piece of d entries, sign(0) = 1

    sum_t q_t = sum_t (beta1 m + (1 - beta1) g_i)_t - e_T at each worker, and sum_t m_t = sum_t mean_i q_i - e at the
    server, in exact arithmetic.

Choices where the source leaves or contradicts itself:

* C keeps the norm: |C(u)|_2 = |u|_2. (The scale that leaves the smallest error would be the mean |u|.)
* Pieces. In the code a worker has one scale for each tensor, the server one for each of N equal chunks of it, both
  over a padded length whose zeros count in d and gather an error of their own. Here nothing is padded and the places
  where a flat vector is cut are arguments.
* sign(0). One bit has no zero; the code sends +1 for 0.
* Bias correction. The code has none at all, in either phase. With `bias_correction` the first phase is Adam as
  published and v is kept as v / (1 - beta2^T_w). m is not corrected in the second phase (it is C of something by
  then), so that the step jumps by a factor 1 - beta1^T_w at the change.
* Mask. Where v = 0 the quotient would be |m| / eps with |m| never 0. The code takes a mask from the user and applies
  it to the momentum that was received; here it is [v > 0]. Such a coordinate never moves again, even if a gradient
  turns up there later. Its errors e_i and e are kept, as in the code.
* When to freeze. |v_t|_1 / |v_{t - Delta}|_1 >= 0.96 with Delta = 1 / (1 - beta2) is one-sided: it holds at once
  while v without bias correction still grows from 0. Therefore the code's fixed T_w; `variance_ratio` is apart.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Compressor = Callable[[Array, Sequence[int]], Array]


def one_bit(u: Array, cuts: Sequence[int] = ()) -> Array:
    """Return C(u) of the flat `u`, with a scale for each of the pieces into which it is cut before `cuts`."""
    pieces = np.split(u, list(cuts))
    return np.concatenate([np.where(p >= 0, 1.0, -1.0) * np.linalg.norm(p) / np.sqrt(p.size) for p in pieces])


def identity(u: Array, cuts: Sequence[int] = ()) -> Array:
    """Return `u`: no compression."""
    return u.copy()


def variance_ratio(v: Array, before: Array) -> float:
    """Return |v|_1 / |before|_1, `before` being v as it was 1 / (1 - beta2) steps ago."""
    return float(np.sum(np.abs(v)) / np.sum(np.abs(before)))


def message_bits(size: int, pieces: int = 1) -> int:
    """Return the bits of one message of the second phase: a sign each and a 32-bit scale for each piece."""
    return size + 32 * pieces


def total_bits(size: int, steps: int, warmup: int, pieces: int = 1) -> int:
    """Return the bits that one worker sends up in `steps` steps; it gets as many if the server's pieces are equal."""
    return 32 * size * min(steps, warmup) + message_bits(size, pieces) * max(steps - warmup, 0)


class OneBitAdam:
    """State: x, m, v [d], t, a worker's error in each row of `worker_error` [n, d], `server_error` [d]."""

    def __init__(
        self,
        x: Array,
        workers: int,
        *,
        lr: float,
        warmup: int,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        bias_correction: bool = True,
        worker_cuts: Sequence[int] = (),
        server_cuts: Sequence[int] = (),
        compress: Compressor = one_bit,
        feedback: bool = True,
    ) -> None:
        self.x = np.array(x, np.float64)
        self.lr, self.warmup, self.betas, self.eps, self.bias_correction = lr, warmup, betas, eps, bias_correction
        self.worker_cuts, self.server_cuts = worker_cuts, server_cuts
        self.compress, self.feedback = compress, feedback
        self.t = 0
        self.m, self.v = np.zeros_like(self.x), np.zeros_like(self.x)
        self.worker_error = np.zeros((workers, self.x.size))
        self.server_error = np.zeros_like(self.x)

    def step(self, grads: Array) -> tuple[Array, Array]:
        """Take the gradients [n, d] of one step; return what the workers sent [n, d] and what came back [d]."""
        self.t += 1
        if self.t <= self.warmup:
            return self._full_precision(grads)
        return self._compressed(grads)

    def _full_precision(self, grads: Array) -> tuple[Array, Array]:
        (beta1, beta2), g = self.betas, grads.mean(axis=0)
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        m, v = self.m, self.v
        if self.bias_correction:
            m, v = m / (1 - beta1**self.t), v / (1 - beta2**self.t)
            if self.t == self.warmup:
                self.v = v
        self.x = self.x - self.lr * m / (np.sqrt(v) + self.eps)
        return grads.copy(), g

    def _compressed(self, grads: Array) -> tuple[Array, Array]:
        beta1 = self.betas[0]
        u = beta1 * self.m + (1 - beta1) * grads + self.worker_error
        q = np.stack([self.compress(row, self.worker_cuts) for row in u])
        s = q.mean(axis=0) + self.server_error
        sent = self.compress(s, self.server_cuts)
        if self.feedback:
            self.worker_error, self.server_error = u - q, s - sent
        self.m = sent * (self.v > 0)
        self.x = self.x - self.lr * self.m / (np.sqrt(self.v) + self.eps)
        return q, sent
