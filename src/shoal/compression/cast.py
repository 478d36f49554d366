"""Half precision: every number in 16 bits, rounded to the nearest.

float16 has 11 bits of precision and a largest number of 65,504 (larger ones become that one, not infinite); bfloat16
has 8 bits and the range of float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.compression.codec import Codec, Memory, stacked_field
from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content, Payload


@dataclass(frozen=True)
class Halves(Payload):
    """A vector [d] in 16 bits an entry."""

    values: Tensor


@dataclass(frozen=True)
class _Cast(Codec):
    dtype: ClassVar[torch.dtype]

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Round."""
        largest = torch.finfo(self.dtype).max
        return [Halves(row) for row in rows.clamp(-largest, largest).to(self.dtype)], memory

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Widen."""
        return stacked_field(payloads, Halves, "values", self.dtype, [layout.size]).to(layout.dtype)

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """The numbers."""
        assert isinstance(payload, Halves)
        return (payload.values,)


@dataclass(frozen=True)
class FP16(_Cast):
    """float16: relative error at most 2**-11 from 6.1e-5 to 65,504, absolute error at most 3e-8 below."""

    dtype = torch.float16


@dataclass(frozen=True)
class BF16(_Cast):
    """bfloat16: relative error at most 2**-8."""

    dtype = torch.bfloat16
