"""DeMo over torch.distributed: the strongest frequencies of everybody's momentum are gathered.

B. Peng, J. Quesnelle, D. P. Kingma, "DeMo: Decoupled Momentum Optimization", 2024 (arXiv 2411.19870); the arithmetic is
that of `shoal.compression.demo`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from shoal.compression.dct import DCT
from shoal.compression.demo import check_settings, extracted, stepped
from shoal.ddp.replicas import Flat, Replicated
from shoal.tensors.layout import Layout


class DeMo(Replicated):
    """A step by the sign of the merged frequencies; what was not sent stays in each process's own momentum.

    Args:
        params, process_group: as of `Replicated`.
        lr: by which every entry moves.
        decay: beta in [0, 1) of the momentum.
        k: coefficients sent of each chunk.
        chunk: longest side of a chunk, in 1..256.
        weight_decay: decoupled decay, >= 0.
        values: how coefficients are sent: "float32", "float16" or "bfloat16".
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 4e-4,
        decay: float = 0.999,
        k: int = 32,
        chunk: int = 64,
        weight_decay: float = 0.0,
        values: str = "float32",
        process_group: Any = None,
    ) -> None:
        check_settings(lr, decay, weight_decay)
        self.codec = DCT(k, chunk, values)
        super().__init__(params, {"lr": lr, "decay": decay, "weight_decay": weight_decay}, process_group)

    def move(self, group: dict[str, Any], x: Tensor, g: Tensor, memory: Flat, layout: Layout) -> Tensor:
        """Send the strongest frequencies, merge, step."""
        delta = memory.get("momentum", torch.zeros_like(g))
        payload, memory["momentum"] = extracted(delta, g, group["lr"], group["decay"], self.codec, layout)
        return stepped(x, self.codec.merge(self.gather(payload), layout), group["lr"], group["weight_decay"])
