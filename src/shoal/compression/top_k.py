"""Top-k: the entries of largest magnitude, with their places.

    C(x)_i = x_i at the k largest |x_i|, else 0        |C(x) - x|^2 <= (1 - k / d) |x|^2

S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with Memory", NeurIPS 2018 (arXiv 1809.07599); with error
feedback, `ef+topk:0.01`, what is left out comes later. Of equal magnitudes the earlier place. The places take about
their entropy: at a density of 1% some 8.1 bits each when they are evenly spread, less when they cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from shoal.compression.blocks import layers
from shoal.compression.codec import Codec, Memory, Use, field_of
from shoal.compression.indices import gaps_of, pack_places, unpack_places
from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content, Payload

Per = Literal["vector", "layer"]
Values = Literal["full", "bf16"]


@dataclass(frozen=True)
class Sparse(Payload):
    """The places of `pack_places` with their number of low bits, and the entries [k] there, in order of place."""

    places: Tensor
    low: int
    values: Tensor


@dataclass(frozen=True)
class TopK(Codec):
    """The largest entries.

    Attributes:
        density: k / d, in (0, 1]; at least one entry is sent.
        per: whether the largest of the whole "vector" or of each "layer" are taken.
        values: "full" in the vector's own type; "bf16" rounded to 16 bits, off by at most 2**-8 of themselves.

    Raises:
        ValueError: one of them is something else.
    """

    density: float = 0.01
    per: Per = "vector"
    values: Values = "full"
    suits: ClassVar[tuple[Use, ...]] = ("update", "gradient")

    def __post_init__(self) -> None:
        check_density(self.density)
        if self.per not in get_args(Per):
            raise ValueError(f"per: got {self.per!r}; {' or '.join(get_args(Per))} is allowed")
        if self.values not in get_args(Values):
            raise ValueError(f"values: got {self.values!r}; {' or '.join(get_args(Values))} is allowed")

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Find and pack them, row by row: a stack would only be split again."""
        payloads = []
        for row in rows:
            places = torch.cat([s.start + largest_places(row[s], k) for s, k in self._shares(layout)])
            packed, low = pack_places(places, layout.size)
            payloads.append(Sparse(packed, low, row[places].to(self._dtype(layout))))
        return payloads, memory

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Zeros, and the entries."""
        k = sum(k for _, k in self._shares(layout))
        rows = torch.empty(0, layout.size, dtype=layout.dtype)
        for i, payload in enumerate(payloads):
            values = field_of(payload, Sparse, "values", self._dtype(layout), [k])
            places = _places(payload, k, layout)
            rows = rows if i else rows.new_zeros(len(payloads), layout.size, device=values.device)
            rows[i, places] = values.to(layout.dtype)
        return rows

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """Gaps between the places, entries."""
        assert isinstance(payload, Sparse)
        return gaps_of(_places(payload, payload.values.numel(), layout), layout.size), payload.values

    def _shares(self, layout: Layout) -> list[tuple[slice, int]]:
        """The stretches, and how many entries of each are sent."""
        stretches = layers(layout) if self.per == "layer" else [slice(0, layout.size)]
        return [(s, kept(s.stop - s.start, self.density)) for s in stretches]

    def _dtype(self, layout: Layout) -> torch.dtype:
        return layout.dtype if self.values == "full" else torch.bfloat16


def check_density(density: float) -> None:
    """Raise ValueError unless a density is in (0, 1]."""
    if not 0.0 < density <= 1.0:
        raise ValueError(f"density: got {density}; a number in (0, 1] is allowed")


def kept(d: int, density: float) -> int:
    """How many of d entries a density leaves: the nearest whole number, 1 at least where there are any."""
    return min(d, max(1, round(density * d)))


def largest_places(x: Tensor, k: int) -> Tensor:
    """The places of the k largest magnitudes of x [d], ascending int64 [k]; of equal ones the earlier places."""
    size = x.abs()
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        least = float(np.partition(size.numpy(), x.numel() - k)[x.numel() - k])
    else:
        least = float(size.kthvalue(x.numel() - k + 1).values)
    places = (size >= least).nonzero().squeeze(-1)
    if places.numel() == k:
        return places
    # More than one has the least magnitude: the later ones are too many.
    equal = size[places] == least
    allowed = k - int((~equal).sum())
    return places[~equal | (equal.cumsum(0) <= allowed)]


def _places(payload: Content, k: int, layout: Layout) -> Tensor:
    packed = field_of(payload, Sparse, "places", torch.uint8, [None])
    assert isinstance(payload, Sparse)
    if type(payload.low) is not int:
        raise ValueError(f"payload: Sparse.low: got {payload.low!r}; a whole number is needed")
    return unpack_places(packed, payload.low, k, layout.size)
