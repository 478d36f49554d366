"""TernGrad, restated in float64 NumPy.

W. Wen, C. Xu, F. Yan, C. Wu, Y. Wang, Y. Chen, H. Li, "TernGrad: Ternary Gradients to Reduce Communication in
Distributed Deep Learning", arXiv:1705.07878 (2017); code: wenwei202/terngrad.

    worker i, each layer:   g <- sign(g) min(|g|, c sigma)          sigma^2 = mean (g_k - mean g)^2 over the layer
                            s_i = max_k |g_k|,   s = max_i s_i      (scales shared between workers)
                            t_k = sign(g_k) b_k,   P(b_k = 1) = |g_k| / s                        sent: t and s
    all:                    x <- x - lr s (1/N) sum_i t_i           sum of trits: one of 2N + 1 levels

    E[s t_k] = g_k (clipped),   Var[s t_k] = |g_k| (s - |g_k|),   E |s t|^2 = s |g|_1

Choices where the source leaves or contradicts itself:

* The scale. The paper takes s after clipping. The code, when it clips, takes s = max_i c sigma_i without looking at
  max |g| and clips nothing: an entry above s is sent with certainty, which is a clip at the shared s and not at the
  worker's own c sigma_i. The scales agree only if the worker with the largest sigma has an entry beyond c sigma; else
  the code's is too large, and with it the variance. The paper's rule is followed.
* A layer of zeros has s = 0 and sends zeros.
* A trit is sent where u < |g| / s, for u uniform on [0, 1), so that |g| = s is always sent.
* Layers left in full precision (in the code the weight and bias of the last one) are an argument; they are averaged
  as floats. The momentum SGD of the code is torch's: v <- momentum v + g, x <- x - lr v.
* Without shared scales each worker has its own s_i; sums then have up to 3^N levels and are not counted here.
* Two bits a trit: the code always pads, so it sends one byte more when 4 divides d. Here ceil(d / 4) bytes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Trits = NDArray[np.int64]


def clip(g: Array, c: float | None) -> Array:
    """Return `g` [any shape] limited to c population standard deviations either side of 0; all of it for None."""
    if c is None:
        return g.copy()
    sigma = np.sqrt(np.mean((g - g.mean()) ** 2))
    return np.sign(g) * np.minimum(np.abs(g), c * sigma)


def shared_scale(gradients: Sequence[Array]) -> float:
    """Return the largest magnitude among the (clipped) gradients of one layer at all workers."""
    return max(float(np.max(np.abs(g))) for g in gradients)


def probabilities(g: Array, s: float) -> Array:
    """Return P(t = -1), P(t = 0), P(t = 1) on a new first axis of length 3, for |g| <= s."""
    magnitude = np.abs(g) / s if s > 0 else np.zeros_like(g)
    return np.stack([np.where(g < 0, magnitude, 0.0), 1.0 - magnitude, np.where(g > 0, magnitude, 0.0)])


def ternarise(g: Array, s: float, u: Array) -> Trits:
    """Return trits in {-1, 0, 1} for the uniform draws `u` in [0, 1), of the shape of `g`."""
    if s == 0:
        return np.zeros(g.shape, np.int64)
    return np.where(u < np.abs(g) / s, np.sign(g), 0.0).astype(np.int64)


def variance(g: Array, s: float) -> Array:
    """Return Var[s t] of every entry."""
    return np.abs(g) * (s - np.abs(g))


def pack_two_bits(trits: Trits) -> bytes:
    """Return ceil(d / 4) bytes, trit 4j + i in bits 2i and 2i + 1 of byte j as t + 1."""
    codes = [int(t) + 1 for t in trits.ravel()]
    return bytes(sum(c << 2 * i for i, c in enumerate(codes[j : j + 4])) for j in range(0, len(codes), 4))


def unpack_two_bits(packed: bytes, size: int) -> Trits:
    """Return the first `size` trits, flat."""
    return np.array([(byte >> 2 * i) % 4 - 1 for byte in packed for i in range(4)][:size], np.int64)


def pack_base_three(trits: Trits) -> bytes:
    """Return ceil(d / 5) bytes of five trits each, 3^5 = 243 being at most 256."""
    codes = [int(t) + 1 for t in trits.ravel()]
    return bytes(sum(c * 3**i for i, c in enumerate(codes[j : j + 5])) for j in range(0, len(codes), 5))


def unpack_base_three(packed: bytes, size: int) -> Trits:
    """Return the first `size` trits, flat."""
    return np.array([byte // 3**i % 3 - 1 for byte in packed for i in range(5)][:size], np.int64)


def two_bit_push(size: int) -> int:
    """Return the bits of one layer's message in whole bytes, its 32-bit scale included."""
    return 8 * ((size + 3) // 4) + 32


def base_three_push(size: int) -> int:
    """Return the same with five trits a byte."""
    return 8 * ((size + 4) // 5) + 32


def least_bits(size: int, levels: int) -> int:
    """Return the bits that number every one of levels^size sequences; 3 for a push, 2N + 1 for a pull."""
    return int(levels**size - 1).bit_length()


@dataclass(frozen=True)
class Message:
    """What one worker sends of one layer: trits and scale, or floats in full precision (scale None)."""

    values: NDArray[np.generic]
    scale: float | None

    def decoded(self) -> Array:
        values = np.asarray(self.values, np.float64)
        return values if self.scale is None else self.scale * values


def push(
    gradients: Sequence[Sequence[Array]],
    draws: Sequence[Sequence[Array]],
    *,
    c: float | None = 2.5,
    shared: bool = True,
    full_precision: Collection[int] = (),
) -> list[list[Message]]:
    """Return the messages [worker][layer] for gradients and uniform draws [worker][layer] of one step."""
    messages: list[list[Message]] = [[] for _ in gradients]
    for layer in range(len(gradients[0])):
        if layer in full_precision:
            for worker, g in zip(messages, gradients, strict=True):
                worker.append(Message(g[layer].copy(), None))
            continue
        clipped = [clip(g[layer], c) for g in gradients]
        together = shared_scale(clipped)
        for worker, g, u in zip(messages, clipped, draws, strict=True):
            s = together if shared else shared_scale([g])
            worker.append(Message(ternarise(g, s, u[layer]), s))
    return messages


def pull(messages: Sequence[Sequence[Message]]) -> list[Array]:
    """Return the mean over workers of what their messages stand for, layer by layer."""
    return [np.mean([worker[i].decoded() for worker in messages], axis=0) for i in range(len(messages[0]))]


class TernGrad:
    """SGD on ternary gradients of N workers, all of which hold the same `params`, one array a layer."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float,
        momentum: float = 0.0,
        c: float | None = 2.5,
        shared: bool = True,
        full_precision: Collection[int] = (),
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.momentum = lr, momentum
        self.c, self.shared, self.full_precision = c, shared, full_precision
        self.v = [np.zeros_like(p) for p in self.params]

    def step(self, gradients: Sequence[Sequence[Array]], draws: Sequence[Sequence[Array]]) -> list[list[Message]]:
        messages = push(gradients, draws, c=self.c, shared=self.shared, full_precision=self.full_precision)
        for i, g in enumerate(pull(messages)):
            self.v[i] = self.momentum * self.v[i] + g
            self.params[i] = self.params[i] - self.lr * self.v[i]
        return messages
