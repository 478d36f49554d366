"""DeMo, restated in float64 NumPy.

B. Peng, J. Quesnelle, D. P. Kingma, "DeMo: Decoupled Momentum Optimization", arXiv:2411.19870 (2024); code:
bloc97/DeMo, demo.py.

    all:       theta <- (1 - lr lam) theta
    worker i:  delta_i <- beta delta_i + lr g_i                                             delta = 0 at first
               c = DCT(delta_i) chunk by chunk;   I_i = places of the k largest |c| of each chunk    sent: I_i, c[I_i]
               delta_i <- delta_i - IDCT(c on I_i, else 0)
    all:       C = mean over those workers that sent the coefficient, 0 where none did;   Q = IDCT(C)
               theta <- theta - lr sign(Q)

    chunk: each axis is cut into lengths n' = the largest divisor of n that is at most s; a matrix has chunks h' x w'
    DCT-II, orthonormal: D_kj = sqrt((2 - [k = 0]) / n) cos(pi k (2j + 1) / 2n);   c = D x,   c = D_h X D_w^T
    the lost part is orthogonal to what is sent: |delta|^2 before = |q|^2 + |delta|^2 after, for each chunk

Choices where the source leaves or contradicts itself:

* lr in delta: in the code, not in the published pseudocode. All is homogeneous in it: while lr is constant theta is
  the same in exact arithmetic; a varying lr weighs the gradients.
* k is limited to the size of a chunk. An axis whose length is a prime above s has chunks of length 1 there, so a
  vector of such a length is sent whole.
* Tensors of more than two axes: the code fails on them. Here all axes but the first are joined to one.
* Equal magnitudes: the lower index first; a chunk of zeros sends k zeros.
* sign(0) = 0. What is 0 in exact arithmetic may come out of the inverse transform as 1e-17 of either sign and then
  moves by lr. Compare two implementations only where |Q| is well above rounding and the k-th magnitude is no tie.
* A worker whose message is lost: the mean is over those that came, the same set for all; its own delta has lost q
  nonetheless, as it cannot know.
* Size. The code sends an index as int64 and a value as float32, 12 bytes a coefficient: with s = 64 and 1.18e9
  parameters 110.6 MB for k = 32 and 3.5 MB for k = 1, about what is reported for the 1B model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


def chunk_length(n: int, target: int) -> int:
    """Return the largest divisor of `n` that is at most `target`."""
    return max(d for d in range(1, min(n, target) + 1) if n % d == 0)


def dct_matrix(n: int) -> Array:
    """Return the orthonormal DCT-II [n, n], frequency by place."""
    matrix = np.empty((n, n))
    for k in range(n):
        for j in range(n):
            matrix[k, j] = np.sqrt((1 if k == 0 else 2) / n) * np.cos(np.pi * k * (2 * j + 1) / (2 * n))
    return matrix


def as_matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns; a vector (or number) is one row."""
    if len(shape) < 2:
        return 1, int(np.prod(shape))
    return shape[0], int(np.prod(shape[1:]))


def transform(x: Array, target: int) -> Array:
    """Return the coefficients [chunks, chunk size] of `x`, chunks by rows and frequencies by rows within a chunk."""
    rows, columns = as_matrix(x.shape)
    h, w = chunk_length(rows, target), chunk_length(columns, target)
    matrix, left, right = x.reshape(rows, columns), dct_matrix(h), dct_matrix(w)
    chunks = []
    for i in range(0, rows, h):
        for j in range(0, columns, w):
            chunks.append((left @ matrix[i : i + h, j : j + w] @ right.T).ravel())
    return np.stack(chunks)


def inverse(coefficients: Array, shape: Sequence[int], target: int) -> Array:
    """Return the tensor of `shape` that has these coefficients."""
    rows, columns = as_matrix(shape)
    h, w = chunk_length(rows, target), chunk_length(columns, target)
    left, right, matrix = dct_matrix(h), dct_matrix(w), np.empty((rows, columns))
    chunk = iter(coefficients)
    for i in range(0, rows, h):
        for j in range(0, columns, w):
            matrix[i : i + h, j : j + w] = left.T @ next(chunk).reshape(h, w) @ right
    return matrix.reshape(shape)


@dataclass(frozen=True)
class Message:
    """What one worker sends of one tensor: places in each chunk and the values there, both [chunks, k]."""

    indices: Indices
    values: Array


def top_k(coefficients: Array, k: int) -> Message:
    """Return the `k` largest magnitudes of each row (all of it if it is shorter), largest first."""
    indices = np.argsort(-np.abs(coefficients), axis=1, kind="stable")[:, :k]
    return Message(indices, np.take_along_axis(coefficients, indices, axis=1))


def merged(messages: Sequence[Message], chunk_size: int) -> Array:
    """Return the coefficients [chunks, chunk_size] averaged over those that sent each, 0 where none did."""
    total = np.zeros((len(messages[0].values), chunk_size))
    senders = np.zeros_like(total)
    for message in messages:
        for chunk, (indices, values) in enumerate(zip(message.indices, message.values, strict=True)):
            for index, value in zip(indices, values, strict=True):
                total[chunk, index] += value
                senders[chunk, index] += 1
    return total / np.maximum(senders, 1)


def coefficients_sent(shape: Sequence[int], target: int, k: int) -> tuple[int, int, int]:
    """Return the number of chunks, the size of a chunk and the coefficients sent of each."""
    rows, columns = as_matrix(shape)
    size = chunk_length(rows, target) * chunk_length(columns, target)
    return rows * columns // size, size, min(k, size)


def message_bits(shape: Sequence[int], target: int, k: int, *, value_bits: int = 32) -> int:
    """Return the bits of a message with ceil(log2(chunk size)) bits an index."""
    chunks, size, k = coefficients_sent(shape, target, k)
    return chunks * k * ((size - 1).bit_length() + value_bits)


def least_message_bits(shape: Sequence[int], target: int, k: int, *, value_bits: int = 32) -> int:
    """Return the same with the set of the k indices of a chunk numbered; none are needed if all is sent."""
    chunks, size, k = coefficients_sent(shape, target, k)
    return chunks * ((comb(size, k) - 1).bit_length() + k * value_bits)


class DeMo:
    """State: the common `params`, one array a tensor, and `delta` [worker][tensor]."""

    def __init__(
        self,
        params: Sequence[Array],
        workers: int,
        *,
        lr: float,
        decay: float = 0.999,
        k: int = 32,
        chunk: int = 64,
        weight_decay: float = 0.0,
        lr_in_momentum: bool = True,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.decay, self.k, self.chunk, self.weight_decay = lr, decay, k, chunk, weight_decay
        self.lr_in_momentum = lr_in_momentum
        self.delta = [[np.zeros_like(p) for p in self.params] for _ in range(workers)]
        self.Q = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Sequence[Array]], received: Sequence[int] | None = None) -> list[list[Message]]:
        """Take the gradients [worker][tensor]; return all messages. `received`: whose came through (all).

        `Q` keeps what the step took the sign of.
        """
        messages: list[list[Message]] = [[] for _ in grads]
        for i, p in enumerate(self.params):
            for worker, g in enumerate(grads):
                weight = self.lr if self.lr_in_momentum else 1.0
                delta = self.decay * self.delta[worker][i] + weight * g[i]
                coefficients = transform(delta, self.chunk)
                message = top_k(coefficients, self.k)
                own = merged([message], coefficients.shape[1])
                self.delta[worker][i] = delta - inverse(own, p.shape, self.chunk)
                messages[worker].append(message)
            came = range(len(grads)) if received is None else received
            together = merged([messages[worker][i] for worker in came], coefficients.shape[1])
            self.Q[i] = inverse(together, p.shape, self.chunk)
            self.params[i] = (1 - self.lr * self.weight_decay) * p - self.lr * np.sign(self.Q[i])
        return messages
