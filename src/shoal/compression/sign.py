"""One bit an entry: its sign, times the mean magnitude of its layer.

    C(x) = mean |x| sign(x), layer by layer, where sign(0) = 1        |C(x) - x|^2 = |x|^2 - |x|_1^2 / d

S. P. Karimireddy, Q. Rebjock, S. U. Stich, M. Jaggi, "Error Feedback Fixes SignSGD and other Gradient Compression
Schemes", ICML 2019 (arXiv 1901.09847). It loses most of a vector; with error feedback, `ef+sign`, what is lost comes
later. The authors' code has sign(0) = 0, a third value; one bit has two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.compression.blocks import layers, scale_dtype, sums
from shoal.compression.codec import Codec, Memory, Use, stacked_field
from shoal.tensors.layout import Layout
from shoal.tensors.packing import pack_bits, packed_bits_size, unpack_bits
from shoal.tensors.payload import Content, Payload


@dataclass(frozen=True)
class Signs(Payload):
    """Bits [ceil(d / 8)], 1 where an entry is not negative, and the mean magnitude of each layer that has entries."""

    bits: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Sign(Codec):
    """Signs with one scale a layer."""

    suits: ClassVar[tuple[Use, ...]] = ("update", "gradient")

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Signs, and means of magnitudes."""
        means = [sums(rows[:, layer], 1) / (layer.stop - layer.start) for layer in layers(layout)]
        scales = torch.stack(means, 1).to(scale_dtype(layout))
        return [Signs(*both) for both in zip(pack_bits(_positive(rows), 1), scales, strict=True)], memory

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """The scale with either sign."""
        stretches = layers(layout)
        bits = stacked_field(payloads, Signs, "bits", torch.uint8, [packed_bits_size(layout.size, 1)])
        scales = stacked_field(payloads, Signs, "scales", scale_dtype(layout), [len(stretches)])
        signs = unpack_bits(bits, 1, layout.size).view(torch.int8).mul_(2).sub_(1)
        rows = torch.empty(signs.shape, dtype=layout.dtype, device=bits.device)
        for layer, scale in zip(stretches, scales.unbind(1), strict=True):
            torch.mul(signs[:, layer], scale[:, None], out=rows[:, layer])
        return rows

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """Signs, scales."""
        assert isinstance(payload, Signs)
        return unpack_bits(payload.bits, 1, layout.size), payload.scales


def _positive(x: Tensor) -> Tensor:
    """Where x >= 0: on a CPU by numpy, which compares several times faster."""
    return torch.from_numpy(x.detach().numpy() >= 0.0) if x.device.type == "cpu" else x >= 0.0
