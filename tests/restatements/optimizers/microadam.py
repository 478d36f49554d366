"""MicroAdam, restated in float64 NumPy.

I.-V. Modoranu, M. Safaryan, G. Malinovsky, E. Kurtic, T. Robert, P. Richtárik, D. Alistarh, "MicroAdam: Accurate
Adaptive Optimization with Low Space Overhead and Provable Convergence", arXiv:2405.15593 (2024).

    a = g + Q^-1(e, delta, Delta)
    I, V = the k entries of a that are largest in magnitude, with their signs;   row (t - 1) mod window of the ring
    a[I] = 0;   delta, Delta = min, max of a in every bucket;   e = Q(a, delta, Delta)
    m_hat = (1 - beta1) / (1 - beta1^t) sum_{r < min(t, window)} beta1^r row_r
    v_hat = (1 - beta2) / (1 - beta2^t) sum_{r < min(t, window)} beta2^r row_r^2        row_r: r steps old
    theta <- (1 - lr lambda) theta - lr m_hat / (sqrt(v_hat) + eps)

    u = (Delta - delta) / (2^bits - 1);   Q(a) = floor((a - delta) / u + 1/2);   Q^-1(e) = e u + delta

Choices where the source leaves or contradicts itself:

* k is ceil(density * size) in every block of the Top-K, also in a last shorter one, as in the authors' code. Their
  block size follows from the shared memory of the GPU; here it is an argument, by default the whole tensor.
* The authors keep V, delta and Delta in bfloat16, where a rounded delta can put codes outside of 0 ... 15. Here
  they are float64.
* A bucket with Delta = delta is 0 / 0 in the authors' kernel; here its codes are 0, which is exact.
* The authors' bias correction and ages use a step count over all tensors, the ring its own place for each
  tensor, which disagree once a gradient is missing. Here all of them follow the count of the tensor.
* Equal magnitudes: the lower index first. The indices I are places in the flat tensor, not in a block.
* quant_bits=None keeps e unquantised, the case omega = 0 of the analysis; then delta and Delta are unused.
* The bucket size has no default in the code; 100 000 is that of the authors' example, which calls 32 or 64 as
  good. A later option of the code, to put a part of the error into the update, is not in the paper: left out.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def quantize(a: Array, bucket_size: int, bits: int) -> tuple[Integers, Array, Array]:
    """Return the codes of `a` [d] and, for each bucket, the minimum delta and the maximum Delta."""
    starts = np.arange(0, a.size, bucket_size)
    low, high = np.minimum.reduceat(a, starts), np.maximum.reduceat(a, starts)
    bucket = np.arange(a.size) // bucket_size
    u = (high - low) / (2**bits - 1)
    u = np.where(u > 0, u, 1.0)
    return np.floor((a - low[bucket]) / u[bucket] + 0.5).astype(np.int64), low, high


def dequantize(codes: Integers, low: Array, high: Array, bucket_size: int, bits: int) -> Array:
    """Return the values [d] for which the codes stand."""
    bucket = np.arange(codes.size) // bucket_size
    u = (high - low) / (2**bits - 1)
    return np.asarray(codes * u[bucket] + low[bucket])


def top_k(a: Array, density: float, block_size: int | None) -> Integers:
    """Return the places of the ceil(density * size) largest magnitudes in each block of the flat `a`."""
    length = block_size or a.size
    chosen = []
    for start in range(0, a.size, length):
        block = np.abs(a[start : start + length])
        k = min(ceil(density * block.size), block.size)
        chosen.append(start + np.argsort(-block, kind="stable")[:k])
    return np.concatenate(chosen).astype(np.int64)


class MicroAdam:
    """MicroAdam; state of a tensor: I, V [window, k], e [d] (codes, or floats without quantisation), low, high, t."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        window: int = 10,
        density: float = 0.01,
        topk_block_size: int | None = None,
        quant_block_size: int = 100_000,
        quant_bits: int | None = 4,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.window, self.density, self.topk_block_size = window, density, topk_block_size
        self.quant_block_size, self.quant_bits = quant_block_size, quant_bits
        k = [top_k(np.zeros(p.size), density, topk_block_size).size for p in self.params]
        buckets = [ceil(p.size / quant_block_size) for p in self.params]
        self.I = [np.zeros((window, n), np.int64) for n in k]
        self.V = [np.zeros((window, n)) for n in k]
        self.e = [np.zeros(p.size) if quant_bits is None else np.zeros(p.size, np.int64) for p in self.params]
        self.low = [np.zeros(n) for n in buckets]
        self.high = [np.zeros(n) for n in buckets]
        self.t = [0] * len(self.params)

    def error(self, i: int) -> Array:
        """Return what the codes of tensor `i` stand for, flat."""
        if self.quant_bits is None:
            return np.asarray(self.e[i], np.float64)
        return dequantize(self.e[i], self.low[i], self.high[i], self.quant_block_size, self.quant_bits)

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            t = self.t[i]

            a = g.ravel() + self.error(i)
            chosen = top_k(a, self.density, self.topk_block_size)
            self.I[i][(t - 1) % self.window] = chosen
            self.V[i][(t - 1) % self.window] = a[chosen]

            a[chosen] = 0.0
            if self.quant_bits is None:
                self.e[i] = a
            else:
                self.e[i], self.low[i], self.high[i] = quantize(a, self.quant_block_size, self.quant_bits)

            m, v = np.zeros(a.size), np.zeros(a.size)
            for age in range(min(t, self.window)):
                row = (t - 1 - age) % self.window
                m[self.I[i][row]] += beta1**age * self.V[i][row]
                v[self.I[i][row]] += beta2**age * self.V[i][row] ** 2
            m_hat = (1 - beta1) / (1 - beta1**t) * m
            v_hat = (1 - beta2) / (1 - beta2**t) * v
            update = (m_hat / (np.sqrt(v_hat) + self.eps)).reshape(g.shape)
            self.params[i] = (1 - self.lr * self.weight_decay) * self.params[i] - self.lr * update
