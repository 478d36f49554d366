"""BAdam, restated in float64 NumPy.

Q. Luo, H. Yu, X. Li, "BAdam: A Memory Efficient Full Parameter Training Method for Large Language Models",
arXiv:2404.02827 (2024).

    a block epoch: take an order of the D blocks; for every block i in it
        m = v = 0
        for k = 1 ... K, each on a new minibatch:   g = gradient with respect to theta_i alone
            m <- beta1 m + (1 - beta1) g;   v <- beta2 v + (1 - beta2) g^2
            theta_i <- theta_i - lr (m / (1 - beta1^k) / (sqrt(v / (1 - beta2^k)) + eps) + lambda theta_i)
        m and v are dropped

Choices where the source leaves or contradicts itself:

* K steps for every block. The authors' code tests its count one too early, so that the first
  block of all gets K - 1.
* K = 100 is the value of the experiments; the default of the code's constructor is 50.
* The order. The method draws it anew for each block epoch (the code can also go up or down). It is a callable
  argument here, ascending by default.
* Weight decay is decoupled (the code wraps AdamW) and acts on the active block only. The code spares biases and
  norms, which is left to the caller: `weight_decay` may be one number for each tensor.
* A missing gradient in the active block leaves that tensor's m, v and k alone; the step still counts among the
  block's K, which are calls of `step`.
* The learning rate has no published default; 1e-6 is of the size used for language models.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Order = Callable[[int, int], Sequence[int]]
"""(block epoch 0, 1, ..., number D of blocks) -> the blocks in the order of that epoch."""


def ascending(epoch: int, blocks: int) -> Sequence[int]:
    return range(blocks)


def descending(epoch: int, blocks: int) -> Sequence[int]:
    return range(blocks)[::-1]


class BAdam:
    """BAdam; `blocks` lists the tensor indices of each block, None: every tensor is one.

    `step` reads the gradients of `active` (tensor indices) only. State m, v, k: dicts by tensor index.
    """

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-6,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | Sequence[float] = 0.0,
        blocks: Sequence[Sequence[int]] | None = None,
        switch_block_every: float = 100,
        block_order: Order = ascending,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.betas, self.eps = lr, betas, eps
        one = isinstance(weight_decay, int | float)
        self.weight_decay = [float(weight_decay)] * len(self.params) if one else list(weight_decay)
        self.blocks = [[i] for i in range(len(self.params))] if blocks is None else [list(b) for b in blocks]
        self.switch_block_every = switch_block_every
        self.block_order = block_order
        self.epoch = -1
        self.to_come: list[int] = []
        self.next_block()

    def next_block(self) -> None:
        """Drop the state and make the next block of the order active."""
        if not self.to_come:
            self.epoch += 1
            self.to_come = list(self.block_order(self.epoch, len(self.blocks)))
        self.block = self.to_come.pop(0)
        self.active = self.blocks[self.block]
        self.steps_in_block = 0
        self.m = {i: np.zeros_like(self.params[i]) for i in self.active}
        self.v = {i: np.zeros_like(self.params[i]) for i in self.active}
        self.k = dict.fromkeys(self.active, 0)

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i in self.active:
            g = grads[i]
            if g is None:
                continue
            self.k[i] += 1
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m_hat = self.m[i] / (1 - beta1 ** self.k[i])
            v_hat = self.v[i] / (1 - beta2 ** self.k[i])
            decay = self.weight_decay[i] * self.params[i]
            self.params[i] = self.params[i] - self.lr * (m_hat / (np.sqrt(v_hat) + self.eps) + decay)
        self.steps_in_block += 1
        if self.steps_in_block >= self.switch_block_every:
            self.next_block()
