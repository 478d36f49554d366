"""Distributed Lion: workers send signs of their Lion directions, and get back a majority vote or an average.

    worker i:   delta_i = sign(beta1 m_i + (1 - beta1) g_i)        m_i <- beta2 m_i + (1 - beta2) g_i        up: delta_i
    all:        x <- x - lr (Delta + lam x)        Delta = sign(sum_i delta_i), or (1/N) sum_i delta_i       down: Delta

B. Liu, L. Wu, L. Chen, K. Liang, J. Zhu, C. Liang, R. Krishnamoorthi, Q. Liu, "Communication Efficient Distributed
Training with Distributed Lion", 2024 (arXiv 2404.00438). Without zeros among the signs, a bit an entry goes up and one
(ties of an even N apart: see `zero`) or ceil(log2(N + 1)) come down. With one worker, or equal gradients everywhere,
both are Lion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.compression.distributed_lion import check_settings, direction, signs_of, stepped
from shoal.compression.symbols import pack_signs, pack_sum, unpack_signs, unpack_sum
from shoal.learning import Learner
from shoal.protocols.compressed.replicas import Replicated
from shoal.protocols.needs import Needs
from shoal.tensors.payload import Content


@dataclass(frozen=True)
class DistributedLion(Replicated):
    """Each round one step of all replicas. The momenta of the workers are their own.

    Attributes:
        lr: by which every entry moves, 3 to 10 times smaller than Adam's.
        betas: in [0, 1): of the direction, and of the momentum that is kept.
        weight_decay: decoupled decay lam, >= 0.
        average: the average of the signs instead of the majority's.
        zero: what stands for the sign of 0, at a worker and in a tie: 0, a third symbol where it occurs (messages then
            take 1.6 bits an entry), or -1 (as the authors' code has it) or 1, for one bit always.
        timeout: virtual seconds to wait for the workers; None waits as long as the world warrants.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    average: bool = False
    zero: int = 0
    needs: ClassVar[Needs] = Needs(server=True, requests=True, optimizer=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self.lr, self.betas, self.weight_decay, self.zero)

    def message(self, me: Learner, g: Tensor) -> Content:
        """Signs of the direction."""
        m = me.state.get("momentum")
        signs, me.state["momentum"] = direction(torch.zeros_like(g) if m is None else m, g, self.betas, self.zero)
        return pack_signs(signs)

    def read(self, me: Learner, message: Content) -> Tensor:
        """Signs, int32 [m]."""
        return unpack_signs(message, me.packer.part.size)

    def combine(self, me: Learner, messages: Mapping[int, Tensor]) -> Content:
        """The vote, or the sum."""
        total = torch.stack(list(messages.values())).sum(0, dtype=torch.int32)
        return pack_sum(total, len(messages)) if self.average else pack_signs(signs_of(total, self.zero))

    def step(self, me: Learner, workers: int, content: Content) -> None:
        """Along the vote or the average."""
        n = workers if self.average else 1
        delta = unpack_sum(content, me.packer.part.size, n).to(me.packer.part.dtype) / n
        x, _ = me.packer.split(me.model)
        me.model = me.packer.join(stepped(x, delta, self.lr, self.weight_decay), me.model)
