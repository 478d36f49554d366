"""The strongest frequencies of a tensor: a cosine transform chunk by chunk, of which the largest coefficients are sent.

    chunk: each axis is cut into lengths n = the largest divisor of its length that is at most `chunk`
    c = D_h X D_w^T for a chunk X [h, w]        D_kj = sqrt((2 - [k = 0]) / n) cos(pi k (2j + 1) / 2n)
    sent: places and values of the k largest |c| of each chunk

B. Peng, J. Quesnelle, D. P. Kingma, "DeMo: Decoupled Momentum Optimization", 2024 (arXiv 2411.19870). D is the
orthonormal DCT-II, so what is left out is orthogonal to what is sent. Vectors are one row; of tensors with more than
two axes all but the first are joined. A place takes ceil(log2(h w)) bits, none where a chunk is sent whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from shoal.compression.codec import Codec, Memory, Use, field_of
from shoal.tensors.layout import Layout, Segment
from shoal.tensors.packing import pack_bits, packed_bits_size, unpack_bits
from shoal.tensors.payload import Content, Payload

Parts: TypeAlias = list[tuple[Tensor | None, Tensor]]
"""Places [chunks, k] (None: all of a chunk) and values [chunks, k] of each layer that is not empty."""
VALUES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Frequencies(Payload):
    """Coefficients of all chunks, layer by layer: packed places uint8 [bytes], and values."""

    places: Tensor
    values: Tensor


@dataclass(frozen=True)
class Grid:
    """How a tensor [rows, columns] is cut into chunks [h, w].

    Attributes:
        kept: coefficients sent of a chunk.
    """

    rows: int
    columns: int
    h: int
    w: int
    kept: int

    @property
    def size(self) -> int:
        """Entries of a chunk."""
        return self.h * self.w

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return self.rows * self.columns // self.size

    @property
    def bits(self) -> int:
        """Of a place; 0 where all coefficients are sent."""
        return 0 if self.kept == self.size else max(1, (self.size - 1).bit_length())


@dataclass(frozen=True)
class DCT(Codec):
    """The k largest coefficients of each chunk.

    Attributes:
        k: at least 1; chunks that are smaller are sent whole.
        chunk: longest side of a chunk, in 1..256.
        values: "float32", as published, "float16" or "bfloat16".
    """

    k: int = 32
    chunk: int = 64
    values: str = "float32"
    suits: ClassVar[tuple[Use, ...]] = ("update", "gradient")

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k: got {self.k}; at least 1 is allowed")
        if not 1 <= self.chunk <= 256:
            raise ValueError(f"chunk: got {self.chunk}; 1 to 256 is allowed")
        if self.values not in VALUES:
            raise ValueError(f"values: got {self.values!r}; {', '.join(VALUES)} are allowed")

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Transform, choose and pack."""
        return [self._encode(row, layout) for row in rows], memory

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """What the coefficients that came stand for."""
        rows = [self.merge([payload], layout) for payload in payloads]
        return torch.stack(rows) if rows else torch.empty(0, layout.size, dtype=layout.dtype)

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """Places of each layer, and values."""
        assert isinstance(payload, Frequencies)
        places = [p.flatten() for p, _ in self.parts(payload, layout) if p is not None]
        return *places, payload.values

    def grid(self, layer: Segment) -> Grid:
        """How a layer, not an empty one, is cut."""
        rows = layer.shape[0] if len(layer.shape) > 1 else 1
        columns = layer.size // rows
        h, w = side(rows, self.chunk), side(columns, self.chunk)
        return Grid(rows, columns, h, w, min(self.k, h * w))

    def merge(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """`merge_parts` of payloads; raises ValueError if one of them is malformed."""
        return self.merge_parts([self.parts(payload, layout) for payload in payloads], layout)

    def merge_parts(self, read: Sequence[Parts], layout: Layout) -> Tensor:
        """The vector [d] whose coefficients are means over those messages that hold them, 0 where none does.

        Sums run in the order of the messages.
        """
        parts = [iter(part) for part in read]
        result = torch.empty(layout.size, dtype=layout.dtype)
        for layer in layout:
            if not layer.size:
                continue
            grid = self.grid(layer)
            total = torch.zeros(grid.chunks, grid.size, dtype=layout.dtype)
            senders = torch.zeros_like(total)
            for part in parts:
                places, values = next(part)
                if places is None:
                    total += values
                    senders += 1.0
                else:
                    total.scatter_add_(1, places, values)
                    senders.scatter_add_(1, places, torch.ones_like(values))
            result[layer.slice] = inverse(total.div_(senders.clamp_min_(1.0)), grid)
        return result

    def _encode(self, row: Tensor, layout: Layout) -> Frequencies:
        places, values = [], []
        for layer in layout:
            if not layer.size:
                continue
            grid = self.grid(layer)
            # A copy: the last bits of a matrix product depend on where in a cache line its input begins.
            c = transform(row[layer.slice].clone(), grid)
            if grid.bits:
                at = c.abs().topk(grid.kept, sorted=False).indices.sort().values
                places.append(pack_bits(at.flatten(), grid.bits))
                c = c.gather(1, at)
            values.append(c.flatten())
        dtype = self._dtype(layout)
        largest = torch.finfo(dtype).max
        joined = torch.cat(values) if values else row.new_empty(0)
        return Frequencies(
            torch.cat(places) if places else torch.empty(0, dtype=torch.uint8),
            joined.clamp(-largest, largest).to(dtype),
        )

    def parts(self, payload: Content, layout: Layout) -> Parts:
        """What a payload from anybody holds; raises ValueError if it is malformed."""
        grids = [self.grid(layer) for layer in layout if layer.size]
        counts = [grid.chunks * grid.kept for grid in grids]
        sizes = [packed_bits_size(n, g.bits) if g.bits else 0 for n, g in zip(counts, grids, strict=True)]
        packed = field_of(payload, Frequencies, "places", torch.uint8, [sum(sizes)])
        values = field_of(payload, Frequencies, "values", self._dtype(layout), [sum(counts)]).to(layout.dtype)
        result: Parts = []
        for grid, count, own, some in zip(grids, counts, packed.split(sizes), values.split(counts), strict=True):
            places = None
            if grid.bits:
                places = unpack_bits(own, grid.bits, count).long().view(grid.chunks, grid.kept)
                if int(places.max()) >= grid.size or bool((places.diff() <= 0).any()):
                    raise ValueError(f"payload: places in a chunk of {grid.size} must increase, and be below that")
            result.append((places, some.view(grid.chunks, grid.kept)))
        return result

    def _dtype(self, layout: Layout) -> torch.dtype:
        """Of the values: "float32" is the layout's own where that is wider."""
        return layout.dtype if self.values == "float32" else VALUES[self.values]


@lru_cache(maxsize=4096)
def side(n: int, longest: int) -> int:
    """The largest divisor of n that is at most `longest`."""
    return next(m for m in range(min(n, longest), 0, -1) if n % m == 0)


@lru_cache(maxsize=256)
def basis(n: int, dtype: torch.dtype) -> Tensor:
    """The orthonormal DCT-II [n, n], frequency by place."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / (2 * n) * k[:, None] * (2.0 * k + 1.0)) * math.sqrt(2.0 / n)
    matrix[0] = 1.0 / math.sqrt(n)
    return matrix.to(dtype)


def transform(x: Tensor, grid: Grid) -> Tensor:
    """Coefficients [chunks, h w] of a flat tensor [rows * columns], in the order of the chunks by rows."""
    right, left = basis(grid.w, x.dtype), basis(grid.h, x.dtype)
    blocks = x.reshape(-1, grid.w) @ right.T
    blocks = blocks.view(grid.rows // grid.h, grid.h, grid.columns // grid.w, grid.w).transpose(1, 2)
    if grid.h > 1:
        # As one product of two matrices, whose bits do not depend on how many chunks there are.
        columns = blocks.transpose(2, 3).reshape(-1, grid.h) @ left.T
        blocks = columns.view(-1, grid.w, grid.h).transpose(1, 2)
    return blocks.reshape(grid.chunks, grid.size)


def inverse(c: Tensor, grid: Grid) -> Tensor:
    """The flat tensor [rows * columns] of coefficients [chunks, h w]."""
    right, left = basis(grid.w, c.dtype), basis(grid.h, c.dtype)
    blocks = (c.reshape(-1, grid.w) @ right).view(-1, grid.h, grid.w)
    if grid.h > 1:
        blocks = (blocks.transpose(1, 2).reshape(-1, grid.h) @ left).view(-1, grid.w, grid.h).transpose(1, 2)
    whole = blocks.reshape(grid.rows // grid.h, grid.columns // grid.w, grid.h, grid.w).transpose(1, 2)
    return whole.reshape(-1)
