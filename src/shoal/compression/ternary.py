"""Ternary gradients (TernGrad): three levels and one scale for each layer, right on average.

    g <- sign(g) min(|g|, c sigma)            sigma^2 = mean (g_k - mean g)^2 over the layer
    s = max_k |g_k|      t_k = sign(g_k) with probability |g_k| / s, else 0          sent: t and s, for s t

W. Wen, C. Xu, F. Yan, C. Wu, Y. Wang, Y. Chen, H. Li, "TernGrad: Ternary Gradients to Reduce Communication in
Distributed Deep Learning", 2017 (arXiv 1705.07878). E[s t] is the clipped g. Trits take 1.6 bits each (five a byte).

Layers whose entries are all equal, as those of one entry are, have sigma = 0. They are left as they are: clipped, as
the publication has it, they would be 0 and never learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.compression.codec import Codec, Memory, Use, field_of
from shoal.tensors.layout import Layout
from shoal.tensors.packing import pack_trits, packed_trits_size, unpack_trits
from shoal.tensors.payload import Content, Payload
from shoal.tensors.random import derive, uniform

BLOCK = 5 << 14  # entries that are drawn and packed together: whole bytes, and small enough for a core's cache


@dataclass(frozen=True)
class Trits(Payload):
    """Packed trits, uint8 [ceil(d / 5)], and the scale of each layer [layers]."""

    trits: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Ternary(Codec):
    """Trits with a scale for each layer; unbiased, but for what is clipped.

    Attributes:
        clip: c, the standard deviations of a layer beyond which its entries are cut off, above 0; None: none are.
    """

    clip: float | None = 2.5
    suits: ClassVar[tuple[Use, ...]] = ("update", "gradient")
    draws: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_clip(self.clip)

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        """Without clipping."""
        return self.clip is None

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Clip, scale and draw."""
        payloads = []
        for row, key in zip(rows, keys.tolist(), strict=True):
            g = clipped(row, layout, self.clip)
            scales = maxima(g, layout)
            payloads.append(Trits(packed_trits(g, scales, key, layout), scales))
        return payloads, memory

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Trits times scales."""
        rows = torch.empty(len(payloads), layout.size, dtype=layout.dtype)
        size, layers = packed_trits_size(layout.size), len(layout)
        for row, payload in zip(rows, payloads, strict=True):
            trits = field_of(payload, Trits, "trits", torch.uint8, [size])
            scales = field_of(payload, Trits, "scales", layout.dtype, [layers])
            row.copy_(scaled(unpack_trits(trits, layout.size), scales, layout))
        return rows

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """Trits and scales."""
        assert isinstance(payload, Trits)
        return unpack_trits(payload.trits, layout.size), payload.scales


def check_clip(clip: float | None) -> None:
    """Raise ValueError unless `clip` is None or a number above 0."""
    if clip is not None and not clip > 0.0:
        raise ValueError(f"clip: got {clip}; a number of standard deviations above 0, or None, is allowed")


def clipped(g: Tensor, layout: Layout, c: float | None) -> Tensor:
    """A gradient [d] limited to c standard deviations of each layer on both sides of 0; itself for None."""
    if c is None:
        return g
    result = torch.empty_like(g)
    for layer in layout:
        own = g[layer.slice]
        bound = c * own.std(correction=0) if layer.size > 1 else None
        if bound is None or float(bound) == 0.0:
            result[layer.slice] = own
        else:
            torch.clamp(own, -bound, bound, out=result[layer.slice])
    return result


def maxima(g: Tensor, layout: Layout) -> Tensor:
    """The largest magnitude in each layer of a gradient [d]: [layers]."""
    tops = [g[layer.slice].abs().max() if layer.size else g.new_zeros(()) for layer in layout]
    return torch.stack(tops) if tops else g.new_zeros(0)


def packed_trits(g: Tensor, scales: Tensor, key: int, layout: Layout) -> Tensor:
    """Draw trits for a gradient [d] with |g| <= scale in each layer, and pack them: uint8 [ceil(d / 5)].

    The trit of g_k is sign(g_k) where u_k < |g_k| / scale for a u_k uniform on [0, 1), and 0 elsewhere.
    """
    chances = torch.empty(min(BLOCK, g.numel()), dtype=g.dtype, device=g.device)
    tops = scales.tolist()
    packed, first = [], 0
    for number, start in enumerate(range(0, g.numel(), BLOCK)):
        block = g[start : start + BLOCK]
        p, stop = chances[: len(block)], start + len(block)
        while first < len(layout) and layout.segments[first].stop <= start:
            first += 1
        for layer, top in zip(layout.segments[first:], tops[first:], strict=True):
            if layer.start >= stop:
                break
            at = slice(max(layer.start, start) - start, min(layer.stop, stop) - start)
            torch.div(block[at], top or 1.0, out=p[at])
        u = uniform(derive(key, number), len(block), dtype=g.dtype, device=g.device)
        packed.append(pack_trits((p > u).to(torch.int8).sub_((p < -u).view(torch.int8))))
    return torch.cat(packed) if packed else torch.empty(0, dtype=torch.uint8, device=g.device)


def scaled(numbers: Tensor, scales: Tensor, layout: Layout) -> Tensor:
    """Whole numbers [d] times the scale of their layer, in the scales' dtype."""
    result = numbers.to(scales.dtype)
    for layer, scale in zip(layout, scales.tolist(), strict=True):
        result[layer.slice].mul_(scale)
    return result
