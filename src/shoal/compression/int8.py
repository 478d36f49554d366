"""Eight bits an entry: whole numbers between -127 and 127 times the largest magnitude of a block.

    A = max |x| over a block        code = round(127 x / A)        decoded = A code / 127

T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise Quantization", ICLR 2022 (arXiv
2110.02861), for blocks with a scale each; the levels here are linear, so that 0 and both ends are exact. Blocks run
over the whole vector, across layers. An entry is off by at most A / 254; with stochastic rounding by less than
A / 127, right on average, with variance (A / 127)**2 p (1 - p) for the fraction p of 127 x / A.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.compression.blocks import blocked, rounded_at_random, scale_dtype, tiles
from shoal.compression.codec import Codec, Memory, stacked_field
from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content, Payload
from shoal.tensors.random import uniform

TOP = 127


@dataclass(frozen=True)
class Bytes8(Payload):
    """A vector [d] as int8 codes [d], and the largest magnitude of each block [ceil(d / block)]."""

    codes: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Int8(Codec):
    """Rounded to the nearest level, halves to the even one.

    Attributes:
        block: entries that share a scale, at least 1.

    Raises:
        ValueError: `block` is less than 1.
    """

    block: int = 256

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"block: got {self.block}; 1 or more is allowed")

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Scale and round, block by block."""
        n, d = rows.shape
        codes = torch.empty((n, d), dtype=torch.int8, device=rows.device)
        scales = torch.empty((n, -(-d // self.block)), dtype=scale_dtype(layout), device=rows.device)
        draws = self._draws(keys, d, scales.dtype)
        for i, columns, blocks in tiles(n, d, self.block):
            x = blocked(rows[i, columns].to(scales.dtype), self.block)
            y = x.abs()
            a = scales[i, blocks] = y.amax(-1)
            # Divided first: 127 / A may be infinite.
            torch.div(x, a.masked_fill_(a == 0.0, 1.0)[..., None], out=y).mul_(TOP)
            codes[i, columns] = self._rounded(y.flatten(1), None if draws is None else draws[i, columns])
        return [Bytes8(*both) for both in zip(codes, scales, strict=True)], memory

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Levels times scales."""
        n, d, dtype = len(payloads), layout.size, scale_dtype(layout)
        codes = stacked_field(payloads, Bytes8, "codes", torch.int8, [d])
        steps = stacked_field(payloads, Bytes8, "scales", dtype, [-(-d // self.block)]) / TOP
        rows = torch.empty((n, d), dtype=layout.dtype, device=codes.device)
        for i, columns, blocks in tiles(n, d, self.block):
            out = blocked(rows[i, columns], self.block)
            torch.mul(blocked(codes[i, columns], self.block), steps[i, blocks, None], out=out)
        return rows

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """Codes, scales."""
        assert isinstance(payload, Bytes8)
        return payload.codes, payload.scales

    def _draws(self, keys: Tensor, d: int, dtype: torch.dtype) -> Tensor | None:
        return None

    def _rounded(self, y: Tensor, draws: Tensor | None) -> Tensor:
        """y [n, m] in [-127, 127], which may be written into, as whole numbers."""
        return y.round_()


@dataclass(frozen=True)
class StochasticInt8(Int8):
    """Rounded up with the probability of the fraction, so that the decoded vector is right on average."""

    unbiased: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    def _draws(self, keys: Tensor, d: int, dtype: torch.dtype) -> Tensor | None:
        return uniform(keys, d, dtype=dtype)

    def _rounded(self, y: Tensor, draws: Tensor | None) -> Tensor:
        assert draws is not None
        return rounded_at_random(y, draws)
