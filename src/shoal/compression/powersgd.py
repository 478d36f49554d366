"""PowerSGD: matrices as products of two thin ones, by one step of the power iteration from where the last one ended.

    P = orth(M Q)        Q <- M' P        decoded = P Q'        for a layer M [out, rest]

T. Vogels, S. P. Karimireddy, M. Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
Optimization", NeurIPS 2019 (arXiv 1905.13727). There, all workers share Q, and P and then Q are averaged by
all-reduce, so that the means have the low rank, too. A codec has one sender and no answer: this is the same step for
one worker, with a Q of its own, and P and Q travel together; receivers average what they decode. Meant for error
feedback: `ef+powersgd:2`.

Layers with fewer than two dimensions, and those that two thin matrices would not make smaller, are sent as they are. Q
is kept orthonormal, which changes no product of P and Q' but for rounding, and a column that vanishes keeps its old
place in the memory: from zeros, which one matrix of zeros would leave, the iteration would never return.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.linalg import vector_norm

from shoal.compression.blocks import aligned, layers
from shoal.compression.codec import Codec, Memory, Use, field_of
from shoal.tensors.layout import Layout, Segment
from shoal.tensors.payload import Content, Payload
from shoal.tensors.random import key, normal


@dataclass(frozen=True)
class LowRank(Payload):
    """P and Q of the matrices, one after the other and row by row, and the other layers [m] as they are."""

    p: Tensor
    q: Tensor
    rest: Tensor


@dataclass(frozen=True)
class Matrix:
    """A layer as a matrix [n, m] and where its factors of r columns begin, among those of all layers."""

    slice: slice
    n: int
    m: int
    r: int
    p: int
    q: int


@dataclass(frozen=True)
class PowerSGD(Codec):
    """One power iteration a message, for each layer of two dimensions or more.

    Attributes:
        rank: columns of P and Q, at least 1; r (n + m) numbers are sent in place of n m.

    Raises:
        ValueError: `rank` is less than 1.
    """

    rank: int = 2
    suits: ClassVar[tuple[Use, ...]] = ("update", "gradient")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank: got {self.rank}; 1 or more is allowed")

    def start(self, layout: Layout, device: torch.device | None = None) -> Memory:
        """Random directions, the same for every sender."""
        parts = [normal(key(0, "powersgd", i), (a.m, a.r)) for i, a in enumerate(self.matrices(layout))]
        q = torch.cat([orthonormal(part)[0].flatten() for part in parts] or [torch.zeros(0)])
        return {"q": q.to(device=device, dtype=layout.dtype)}

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Iterate once, row by row: products of stacks have other bits than those of single matrices."""
        matrices, rest = self.matrices(layout), self._rest(layout)
        payloads, after = [], memory["q"].clone()
        for row, old, new in zip(rows, memory["q"], after, strict=True):
            p, q = row.new_empty(_size(matrices, "p")), row.new_empty(_size(matrices, "q"))
            for a in matrices:
                M, Q = _matrix(row, a.slice.start, a.n, a.m), _matrix(old, a.q, a.m, a.r)
                P = orthonormal(M @ Q)[0].to(M.dtype)
                p[a.p : a.p + a.n * a.r] = P.flatten()
                product = M.T @ P
                q[a.q : a.q + a.m * a.r] = product.flatten()
                kept, there = orthonormal(product)
                new[a.q : a.q + a.m * a.r] = torch.where(there, kept.to(Q.dtype), Q).flatten()
            payloads.append(LowRank(p, q, _picked(row, rest)))
        return payloads, {"q": after}

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Products, row by row."""
        device = field_of(payloads[0], LowRank, "p", layout.dtype, [None]).device if payloads else None
        rows = torch.empty(len(payloads), layout.size, dtype=layout.dtype, device=device)
        for row, payload in zip(rows, payloads, strict=True):
            for stretch, part in self._parts(payload, layout):
                row[stretch] = part
        return rows

    def left_out(self, rows: Tensor, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Layer by layer, while a product is in the cache."""
        for row, payload in zip(rows, payloads, strict=True):
            for stretch, part in self._parts(payload, layout):
                row[stretch] -= part
        return rows

    def _parts(self, payload: Content, layout: Layout) -> Iterator[tuple[slice, Tensor]]:
        """Each layer's stretch, and what is decoded there."""
        matrices, rest, dtype = self.matrices(layout), self._rest(layout), layout.dtype
        p = field_of(payload, LowRank, "p", dtype, [_size(matrices, "p")])
        q = field_of(payload, LowRank, "q", dtype, [_size(matrices, "q")])
        others = field_of(payload, LowRank, "rest", dtype, [sum(s.stop - s.start for s in rest)])
        for a in matrices:
            yield a.slice, (_matrix(p, a.p, a.n, a.r) @ _matrix(q, a.q, a.m, a.r).T).flatten()
        yield from zip(rest, others.split([s.stop - s.start for s in rest]), strict=True)

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """P, Q, the rest."""
        assert isinstance(payload, LowRank)
        return payload.p, payload.q, payload.rest

    def matrices(self, layout: Layout) -> list[Matrix]:
        """The layers that are sent as products."""
        found, p, q = [], 0, 0
        for segment in layout:
            n, m = _shape(segment)
            r = min(self.rank, n, m)
            if r * (n + m) < n * m:
                found.append(Matrix(segment.slice, n, m, r, p, q))
                p, q = p + n * r, q + m * r
        return found

    def _rest(self, layout: Layout) -> list[slice]:
        taken = {a.slice.start for a in self.matrices(layout)}
        return [s for s in layers(layout) if s.start not in taken]


def orthonormal(A: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of A [n, r] made orthonormal one after the other, by Gram and Schmidt, each twice.

    Returns:
        float64 [n, r], and bool [r] that is False for columns of which nothing but rounding remains, which are 0.
    """
    eps = torch.finfo(A.dtype).eps
    columns, there = list(A.double().T.contiguous()), []
    for j, column in enumerate(columns):
        before = norm = float(vector_norm(column))
        if before > 0.0:
            column = column / before
            for _ in range(2):
                for other in columns[:j]:
                    column = column - column.dot(other) * other
            norm = float(vector_norm(column))
        there.append(norm > 8.0 * eps)
        columns[j] = column / norm if there[-1] else torch.zeros_like(column)
    return torch.stack(columns, 1), torch.tensor(there, device=A.device)


def _shape(segment: Segment) -> tuple[int, int]:
    if len(segment.shape) < 2 or not segment.size:
        return 0, 0
    return segment.shape[0], segment.size // segment.shape[0]


def _matrix(x: Tensor, start: int, n: int, m: int) -> Tensor:
    """[n, m] from a stretch of x."""
    return aligned(x[start : start + n * m]).view(n, m)


def _size(matrices: Sequence[Matrix], factor: str) -> int:
    return sum((a.n if factor == "p" else a.m) * a.r for a in matrices)


def _picked(row: Tensor, stretches: Sequence[slice]) -> Tensor:
    return torch.cat([row[s] for s in stretches]) if stretches else row[:0].clone()
