"""The compression of DeMo's own code (bloc97/DeMo, `demo.py`), for `benchmarks/ours/compression.py`.

Restated from its `TransformDCT` and `CompressDCT`: each tensor by itself is cut into chunks by strided views, an
einsum over them is the cosine transform in one or two dimensions, `topk` and `gather` choose, and what is sent are
int64 places and float32 values. Decoding scatters them into zeros, as means of those that share a place, and
transforms back. The bases are its DCT-II with "ortho", made once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Message = list[tuple[Tensor, Tensor]]


class Reference:
    """What it does to tensors of these shapes, flat in one vector [d]."""

    def __init__(self, x: Tensor, shapes: list[tuple[int, ...]], k: int = 32, chunk: int = 64) -> None:
        self.tensors = [
            part.view(shape) for part, shape in zip(x.split([math.prod(s) for s in shapes]), shapes, strict=True)
        ]
        self.k = k
        self.sides = {n: max(m for m in range(1, min(n, chunk) + 1) if n % m == 0) for s in shapes for n in s}
        self.bases = {n: _basis(n) for n in self.sides.values()}

    def encode(self) -> Message:
        return [self._chosen(self._transformed(x)) for x in self.tensors]

    def decode(self, message: Message) -> list[Tensor]:
        return [self._restored(x, *sent) for x, sent in zip(self.tensors, message, strict=True)]

    def size(self, message: Message) -> int:
        """Bytes."""
        return sum(part.nbytes for sent in message for part in sent)

    def _transformed(self, x: Tensor) -> Tensor:
        """Coefficients [..., entries of a chunk]."""
        if x.ndim == 1:
            w = self.sides[len(x)]
            return torch.einsum("nw,wb->nb", x.view(-1, w), self.bases[w].T)
        h, w = (self.sides[n] for n in x.shape)
        chunks = x.view(len(x) // h, h, -1, w).transpose(1, 2)
        return torch.einsum("yxhw,ha,wb->yxab", chunks, self.bases[h].T, self.bases[w].T).flatten(2)

    def _chosen(self, c: Tensor) -> tuple[Tensor, Tensor]:
        places = c.abs().topk(min(self.k, c.shape[-1]), sorted=False).indices
        return places, c.gather(-1, places)

    def _restored(self, x: Tensor, places: Tensor, values: Tensor) -> Tensor:
        if x.ndim == 1:
            w = self.sides[len(x)]
            c = x.new_zeros(len(x) // w, w).scatter_reduce_(-1, places, values, "mean", include_self=False)
            return torch.einsum("nb,bw->nw", c, self.bases[w]).view_as(x)
        h, w = (self.sides[n] for n in x.shape)
        c = x.new_zeros(*places.shape[:2], h * w).scatter_reduce_(-1, places, values, "mean", include_self=False)
        chunks = torch.einsum("yxab,ah,bw->yhxw", c.unflatten(-1, (h, w)), self.bases[h], self.bases[w])
        return chunks.reshape(x.shape)


def _basis(n: int) -> Tensor:
    """The orthonormal DCT-II [n, n], frequency by place."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / (2 * n) * k[:, None] * (2.0 * k + 1.0)) * math.sqrt(2.0 / n)
    matrix[0] /= math.sqrt(2.0)
    return matrix.float()
