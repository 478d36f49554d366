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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from shoal.compression.blocks import aligned
from shoal.compression.codec import Codec, Memory, Use, field_of
from shoal.tensors.layout import Layout, Segment
from shoal.tensors.packing import pack_bits, packed_bits_size, unpack_bits
from shoal.tensors.payload import Content, Payload

Parts: TypeAlias = list[tuple[Tensor | None, Tensor]]
"""Places [chunks, k] (None: all of a chunk) and values [chunks, k] of each layer that is not empty."""
TOGETHER = 1 << 17  # entries of layers that are chosen from and packed at once
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
        rows = torch.empty(len(payloads), layout.size, dtype=layout.dtype)
        for row, payload in zip(rows, payloads, strict=True):
            self._merge_into(row, [self.parts(payload, layout)], layout)
        return rows

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
        result = torch.empty(layout.size, dtype=layout.dtype)
        self._merge_into(result, read, layout)
        return result

    def _merge_into(self, result: Tensor, read: Sequence[Parts], layout: Layout) -> None:
        for layer, *parts in zip([layer for layer in layout if layer.size], *read, strict=True):
            grid = self.grid(layer)
            total = torch.zeros(grid.chunks, grid.size, dtype=layout.dtype)
            _add(total, parts)
            if len(parts) > 1:
                senders = torch.zeros_like(total)
                _add(senders, [(places, torch.ones_like(values)) for places, values in parts])
                total.div_(senders.clamp_min_(1.0))
            inverse(total, grid, result[layer.slice])

    def _encode(self, row: Tensor, layout: Layout) -> Frequencies:
        layers = [layer for layer in layout if layer.size]
        grids = [self.grid(layer) for layer in layers]
        places: dict[int, Tensor] = {}
        values: dict[int, Tensor] = {}
        for grid, alike in _together(grids):
            parts = [transform(aligned(row[layers[i].slice]), grid) for i in alike]
            c = torch.cat(parts) if len(parts) > 1 else parts[0]
            if grid.bits:
                at = strongest(c.abs(), grid.kept)
                places |= zip(alike, pack_bits(at.view(len(alike), -1), grid.bits), strict=True)
                c = c.gather(1, at)
            values |= zip(alike, c.view(len(alike), -1), strict=True)
        dtype = self._dtype(layout)
        largest = torch.finfo(dtype).max
        return Frequencies(
            torch.cat([places[i] for i in sorted(places)] or [torch.empty(0, dtype=torch.uint8)]),
            torch.cat([values[i] for i in sorted(values)] or [row.new_empty(0)]).clamp_(-largest, largest).to(dtype),
        )

    def parts(self, payload: Content, layout: Layout) -> Parts:
        """What a payload from anybody holds; raises ValueError if it is malformed."""
        grids = [self.grid(layer) for layer in layout if layer.size]
        counts = [grid.chunks * grid.kept for grid in grids]
        sizes = [packed_bits_size(n, g.bits) if g.bits else 0 for n, g in zip(counts, grids, strict=True)]
        packed = field_of(payload, Frequencies, "places", torch.uint8, [sum(sizes)]).split(sizes)
        values = field_of(payload, Frequencies, "values", self._dtype(layout), [sum(counts)]).to(layout.dtype)
        places: dict[int, Tensor] = {}
        for grid, alike in _together(grids):
            if grid.bits:
                own = unpack_bits(torch.stack([packed[i] for i in alike]), grid.bits, grid.chunks * grid.kept)
                own = own.long().view(len(alike), grid.chunks, grid.kept)
                if int(own.max()) >= grid.size or bool((own.diff() <= 0).any()):
                    raise ValueError(f"payload: places in a chunk of {grid.size} must increase, and be below that")
                places |= zip(alike, own, strict=True)
        some = zip(values.split(counts), grids, strict=True)
        return [(places.get(i), part.view(grid.chunks, grid.kept)) for i, (part, grid) in enumerate(some)]

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


def inverse(c: Tensor, grid: Grid, result: Tensor | None = None) -> Tensor:
    """The flat tensor [rows * columns] of coefficients [chunks, h w], in `result` if there is one."""
    result = c.new_empty(grid.rows * grid.columns) if result is None else result
    right, left = basis(grid.w, c.dtype), basis(grid.h, c.dtype)
    blocks = (c.reshape(-1, grid.w) @ right).view(-1, grid.h, grid.w)
    if grid.h > 1:
        blocks = (blocks.transpose(1, 2).reshape(-1, grid.h) @ left).view(-1, grid.w, grid.h).transpose(1, 2)
    down, across = grid.rows // grid.h, grid.columns // grid.w
    result.view(down, grid.h, across, grid.w).copy_(blocks.view(down, across, grid.h, grid.w).transpose(1, 2))
    return result


def strongest(sizes: Tensor, k: int) -> Tensor:
    """The places of the k largest of each row [n, m], ascending int64 [n, k]; which of equal ones is left open."""
    if sizes.device.type == "cpu" and sizes.dtype in (torch.float32, torch.float64):
        array, first = sizes.numpy(), sizes.shape[1] - k
        places = np.flatnonzero(array >= np.partition(array, first, axis=1)[:, first, None])
        if len(places) == len(array) * k:  # more, if some are equal to the least
            return torch.from_numpy(places % array.shape[1]).view(len(array), k)
    return sizes.topk(k, sorted=False).indices.sort().values


def _add(total: Tensor, parts: Parts) -> None:
    """Add what messages hold of one layer to coefficients [chunks, h w]."""
    for places, values in parts:
        if places is None:
            total += values
        else:
            total.scatter_add_(1, places, values)


def _together(grids: Sequence[Grid]) -> Iterator[tuple[Grid, list[int]]]:
    """Which layers are cut alike: what is done chunk by chunk is done for many small ones at once."""
    found: dict[Grid, list[int]] = {}
    for i, grid in enumerate(grids):
        found.setdefault(grid, []).append(i)
    for grid, alike in found.items():
        step = max(1, TOGETHER // (grid.rows * grid.columns))
        for start in range(0, len(alike), step):
            yield grid, alike[start : start + step]
