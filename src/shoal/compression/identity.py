"""No compression: the vector itself. Training with it is, bit for bit, training without a codec."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.compression.codec import Codec, Memory
from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content


@dataclass(frozen=True)
class Identity(Codec):
    """Sends the numbers as they are."""

    unbiased: ClassVar[bool] = True

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Nothing is changed."""
        return list(rows), memory

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Nothing was changed."""
        rows = []
        for x in payloads:
            if not isinstance(x, Tensor) or x.shape != (layout.size,) or x.dtype != layout.dtype:
                got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(f"payload: got {got}; {layout.dtype} [{layout.size}] is needed")
            rows.append(x)
        return torch.stack(rows)

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """The numbers."""
        assert isinstance(payload, Tensor)
        return (payload,)
