"""1-bit Adam over torch.distributed: gathered gradients at first, then a bit an entry of everybody's momentum.

H. Tang et al., "1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence Speed", 2021 (arXiv
2102.02888); the arithmetic is that of `shoal.compression.onebit_adam`. What the server does there, every process does
here, with equal results.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from shoal.aggregation import mean
from shoal.compression import Identity
from shoal.compression.onebit_adam import (
    check_settings,
    cold_step,
    compensated,
    decoded,
    frozen,
    warm_step,
    with_error,
)
from shoal.ddp.replicas import Flat, Replicated
from shoal.tensors.layout import Layout


class OneBitAdam(Replicated):
    """Adam for `warmup` steps, then signs of the momentum with error feedback over a variance that stays.

    Args:
        params, process_group: as of `Replicated`.
        lr: learning rate.
        betas: in [0, 1): of the momentum and of the variance.
        eps: above 0.
        warmup: steps in full precision, at least 1; 15 to 25% of all, as published.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        warmup: int = 100,
        process_group: Any = None,
    ) -> None:
        check_settings(lr, betas, eps, warmup)
        self.warmup = warmup
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps}, process_group)

    def move(self, group: dict[str, Any], x: Tensor, g: Tensor, memory: Flat, layout: Layout) -> Tensor:
        """Adam's step, or one along the momentum that all make of everybody's signs."""
        lr, betas, eps, t = group["lr"], group["betas"], group["eps"], group["steps"]
        for name in ("m", "v", "error", "common error"):
            memory.setdefault(name, torch.zeros_like(g))
        if t <= self.warmup:
            rows = Identity().decode_rows(self.gather(g), layout)
            x, memory["m"], v = warm_step(x, memory["m"], memory["v"], mean(rows), t, lr, betas, eps)
            memory["v"] = frozen(v, t, betas[1]) if t == self.warmup else v
            return x
        payload, memory["error"] = compensated(memory["m"], g, memory["error"], betas[0], layout)
        sent = [decoded(other, layout) for other in self.gather(payload)]
        common, memory["common error"] = with_error(mean(sent) + memory["common error"], layout)
        x, memory["m"] = cold_step(x, decoded(common, layout), memory["v"], lr, eps)
        return x
