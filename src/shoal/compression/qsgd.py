"""QSGD: whole multiples of the norm of a bucket over s, rounded at random so that they are right on average.

    r_i = s |x_i| / |x|        l_i = floor(r_i), and one more with probability r_i - l_i
    Q(x)_i = |x| sign(x_i) l_i / s        E Q(x) = x        E |Q(x) - x|^2 <= min(d / s^2, sqrt(d) / s) |x|^2

D. Alistarh, D. Grubic, J. Li, R. Tomioka, M. Vojnovic, "QSGD: Communication-Efficient SGD via Gradient Quantization
and Encoding", NeurIPS 2017 (arXiv 1610.02132), with codes of fixed length: sign and level together have 2 s + 1 values
and take 1 + ceil(log2(s + 1)) bits. As there, buckets run over the whole vector, across layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.compression.blocks import blocked, layers, rounded_at_random, scale_dtype, sums, tiles
from shoal.compression.codec import Codec, Memory, Use, stacked_field
from shoal.tensors.layout import Layout
from shoal.tensors.packing import pack_bits, packed_bits_size, unpack_bits
from shoal.tensors.payload import Content, Payload
from shoal.tensors.random import uniform


@dataclass(frozen=True)
class Levels(Payload):
    """Signed levels plus s, packed, uint8 [ceil(bits d / 8)], and the norm of each bucket."""

    codes: Tensor
    norms: Tensor


@dataclass(frozen=True)
class QSGD(Codec):
    """Random rounding to levels of a bucket's norm.

    Attributes:
        levels: s, above 0, in [1, 32767]: 1, 3, 7, ... fill their bits; 7 takes 4 bits an entry.
        bucket: entries that share a norm; 0: the layers are the buckets. The variance is at most
            min(bucket / s**2, sqrt(bucket) / s) times the squared norm.

    Raises:
        ValueError: one of them is out of range.
    """

    levels: int = 7
    bucket: int = 512
    suits: ClassVar[tuple[Use, ...]] = ("update", "gradient")
    unbiased: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 32767:
            raise ValueError(f"levels: got {self.levels}; 1 to 32767 is allowed")
        if self.bucket < 0:
            raise ValueError(f"bucket: got {self.bucket}; 1 or more is allowed, or 0 for layers")

    @property
    def bits(self) -> int:
        """Of an entry."""
        return 1 + self.levels.bit_length()

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Scale, and round by the draws."""
        n, d = rows.shape
        dtype = scale_dtype(layout)
        codes = torch.empty((n, d), dtype=torch.int8 if self.bits <= 8 else torch.int32, device=rows.device)
        norms = torch.empty((n, self._buckets(layout)), dtype=dtype, device=rows.device)
        draws = uniform(keys, d, dtype=dtype)
        for stretch, first, bucket in self._stretches(layout):
            for i, columns, buckets in tiles(n, stretch.stop - stretch.start, bucket):
                x = blocked(rows[i, stretch][:, columns].to(dtype), bucket)
                norm = sums(x, 2).sqrt_().clamp_(max=torch.finfo(dtype).max).to(dtype)
                norms[i, first + buckets.start : first + buckets.stop] = norm
                r = x.abs().div_(norm.masked_fill_(norm == 0.0, 1.0)[..., None]).mul_(self.levels)
                r = r.clamp_(max=self.levels).flatten(1)
                level = rounded_at_random(r, draws[i, stretch][:, columns])
                codes[i, stretch][:, columns] = level.mul_(x.sign().flatten(1))
        codes = codes.add_(self.levels) if self.bits > 8 else codes.view(torch.uint8).add_(self.levels)
        return [Levels(*both) for both in zip(pack_bits(codes, self.bits), norms, strict=True)], memory

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Levels times norms over s."""
        d, dtype = layout.size, scale_dtype(layout)
        packed = stacked_field(payloads, Levels, "codes", torch.uint8, [packed_bits_size(d, self.bits)])
        steps = stacked_field(payloads, Levels, "norms", dtype, [self._buckets(layout)]) / self.levels
        codes = unpack_bits(packed, self.bits, d)
        if codes.numel() and int(codes.max()) > 2 * self.levels:
            raise ValueError(f"payload: Levels.codes: got {int(codes.max())}; at most {2 * self.levels} is allowed")
        rows = torch.empty(codes.shape, dtype=layout.dtype, device=codes.device)
        for stretch, first, bucket in self._stretches(layout):
            for i, columns, buckets in tiles(len(codes), stretch.stop - stretch.start, bucket):
                levels = blocked(codes[i, stretch][:, columns], bucket).to(dtype).sub_(self.levels)
                step = steps[i, first + buckets.start : first + buckets.stop, None]
                torch.mul(levels, step, out=blocked(rows[i, stretch][:, columns], bucket))
        return rows

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """Levels, norms."""
        assert isinstance(payload, Levels)
        return unpack_bits(payload.codes, self.bits, layout.size), payload.norms

    def _stretches(self, layout: Layout) -> list[tuple[slice, int, int]]:
        """What is cut into buckets: the vector or each layer; the number of its first bucket; the bucket's size."""
        if self.bucket:
            return [(slice(0, layout.size), 0, self.bucket)]
        return [(layer, i, layer.stop - layer.start) for i, layer in enumerate(layers(layout))]

    def _buckets(self, layout: Layout) -> int:
        return -(-layout.size // self.bucket) if self.bucket else len(layers(layout))
