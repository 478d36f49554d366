"""Distributed Lion, restated in float64 NumPy.

B. Liu, L. Wu, L. Chen, K. Liang, J. Zhu, C. Liang, R. Krishnamoorthi, Q. Liu, "Communication Efficient Distributed
Training with Distributed Lion", arXiv:2404.00438 (2024); code: kyleliang919/distributed-lion-pytorch.

    worker i:  delta_i = sign(beta1 m_i + (1 - beta1) g_i)                            sent: delta_i;   m_i = 0 at first
               m_i <- beta2 m_i + (1 - beta2) g_i                                     never sent
    server:    Delta = sign(sum_i delta_i)  (MaVo)   or   (1/N) sum_i delta_i  (Avg)   sent back: Delta
    all:       x <- x - lr (Delta + lam x)

Choices where the source leaves or contradicts itself:

* sign(0), at a worker or in a vote of even N that is tied. The paper writes sign, which is 0 there and needs a third
  symbol; its one bit a parameter holds without zeros only. The code sends the bit [u > 0], so 0 becomes -1, and takes
  the smaller of two equally frequent bits, so a tie becomes -1 as well. Both are arguments, 0 by default.
* Levels of the average. N signs that are never 0 add up to one of N + 1 values, the paper's log2(N + 1) bits; with
  zeros it is one of 2N + 1.
* The code decays first, x <- (1 - lr lam) x, and then steps. Delta does not depend on x, so this is the same rule.
* The paper counts TernGrad's trit as 1.5 bits; it is log2 3 = 1.585.
* Drawing signs at random in the code (Bernoulli in place of sign) is no part of the algorithm stated: left out.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Aggregation = Literal["majority", "average"]


def sign(u: Array, zero: float = 0.0) -> Array:
    """Return the sign of `u`, and `zero` (-1, 0 or 1) where it is 0."""
    return np.where(u == 0, zero, np.sign(u))


def aggregate(deltas: Array, aggregation: Aggregation, tie: float = 0.0) -> Array:
    """Return Delta [d] from the signs [n, d]."""
    if aggregation == "average":
        return deltas.mean(axis=0)
    if aggregation == "majority":
        return sign(deltas.sum(axis=0), tie)
    raise ValueError(f"aggregation: majority or average, got {aggregation!r}")


def levels_up(zero: float = 0.0) -> int:
    """Return how many symbols a worker's message is made of."""
    return 3 if zero == 0 else 2


def levels_down(workers: int, aggregation: Aggregation, *, zero: float = 0.0, tie: float = 0.0) -> int:
    """Return how many symbols the answer is made of."""
    if aggregation == "average":
        return (2 * workers + 1) if zero == 0 else workers + 1
    tied = zero == 0 or workers % 2 == 0
    return 3 if tied and tie == 0 else 2


def fixed_width(size: int, levels: int) -> int:
    """Return the bits of `size` symbols of equal width."""
    return size * int(levels - 1).bit_length()


def least_bits(size: int, levels: int) -> int:
    """Return the bits that number all levels^size messages."""
    return int(levels**size - 1).bit_length()


class DistributedLion:
    """State: x [d], the same at all workers, and one momentum a worker in the rows of `m` [n, d]."""

    def __init__(
        self,
        x: Array,
        workers: int,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        aggregation: Aggregation = "majority",
        zero: float = 0.0,
        tie: float = 0.0,
    ) -> None:
        self.x = np.array(x, np.float64)
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay
        self.aggregation, self.zero, self.tie = aggregation, zero, tie
        self.m = np.zeros((workers, self.x.size))

    def step(self, grads: Array) -> tuple[Array, Array]:
        """Take the gradients [n, d] of one step; return the signs sent up [n, d] and the answer [d]."""
        beta1, beta2 = self.betas
        deltas = sign(beta1 * self.m + (1.0 - beta1) * grads, self.zero)
        self.m = beta2 * self.m + (1.0 - beta2) * grads
        answer = aggregate(deltas, self.aggregation, self.tie)
        self.x = self.x - self.lr * (answer + self.weight_decay * self.x)
        return deltas, answer
