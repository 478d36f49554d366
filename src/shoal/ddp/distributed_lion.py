"""Distributed Lion over torch.distributed: signs of the Lion directions are gathered, and everybody counts the votes.

B. Liu et al., "Communication Efficient Distributed Training with Distributed Lion", 2024 (arXiv 2404.00438); the
arithmetic is that of `shoal.compression.distributed_lion`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from shoal.compression.distributed_lion import check_settings, direction, signs_of, stepped
from shoal.compression.symbols import pack_signs, unpack_signs
from shoal.ddp.replicas import Flat, Replicated
from shoal.tensors.layout import Layout


class DistributedLion(Replicated):
    """Lion by a majority vote, or the average, of the processes' signs; momenta are each process's own.

    Args:
        params, process_group: as of `Replicated`.
        lr: by which every entry moves, 3 to 10 times smaller than Adam's.
        betas: in [0, 1): of the direction, and of the momentum that is kept.
        weight_decay: decoupled decay, >= 0.
        average: the average instead of the majority.
        zero: what stands for the sign of 0: 0 (a third symbol where it occurs), or -1 or 1 for one bit always.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        average: bool = False,
        zero: int = 0,
        process_group: Any = None,
    ) -> None:
        check_settings(lr, betas, weight_decay, zero)
        self.average, self.zero = average, zero
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay}, process_group)

    def move(self, group: dict[str, Any], x: Tensor, g: Tensor, memory: Flat, layout: Layout) -> Tensor:
        """Send signs, count, step."""
        m = memory.get("momentum", torch.zeros_like(g))
        signs, memory["momentum"] = direction(m, g, group["betas"], self.zero)
        votes = [unpack_signs(payload, layout.size) for payload in self.gather(pack_signs(signs))]
        total = torch.stack(votes).sum(0, dtype=torch.int32)
        delta = total.to(x.dtype) / len(votes) if self.average else signs_of(total, self.zero).to(x.dtype)
        return stepped(x, delta, group["lr"], group["weight_decay"])
