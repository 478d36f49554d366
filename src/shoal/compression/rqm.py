"""The randomised quantisation mechanism (RQM): privacy from levels that are left out at random, with no added noise.

    X = c + Delta;   B(i) = -X + 2 X i / (m - 1);   levels 0 and m - 1 are kept, each other one with probability q
    z = b with probability (x - B(a)) / (B(b) - B(a)), else a, where a, b are the kept neighbours of x;   E[B(z)] = x
    n clients, of whom secure aggregation shows the sum alone:   mean = -X + 2 X sum z / (n (m - 1))

Y. Youn, Z. Hu, J. Ziani, J. Abernethy, "Randomized Quantization is All You Need for Differential Privacy in Federated
Learning", 2023 (arXiv 2306.11913). Each entry is clipped to [-c, c] and has draws of its own: how many levels are left
out below and above it is geometric, which gives the neighbours the law that m - 2 coins would. Draws have 53 bits.
The probabilities and what they give away are `shoal.privacy.RQMLaw` of the same settings. An entry of 0 is sent as
something else: error feedback around it would tell the receiver over time what the noise was, and ends the privacy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.compression.blocks import tiles
from shoal.compression.codec import Codec, Memory, Use, field_of, stacked_field
from shoal.tensors.layout import Layout
from shoal.tensors.packing import pack_bits, packed_bits_size, unpack_bits
from shoal.tensors.payload import Content, Payload
from shoal.tensors.random import uniform

PIECE = 1 << 14  # entries that are quantised at once: with temporaries of float64 they stay in a second-level cache
PURPOSES = ("below", "above", "rounding")


@dataclass(frozen=True)
class Quantised(Payload):
    """Levels z, packed, uint8 [ceil(d ceil(log2 m) / 8)]."""

    levels: Tensor


@dataclass(frozen=True)
class Total(Payload):
    """Sums int32 [d] of several clients' levels."""

    sums: Tensor
    clients: int


@dataclass(frozen=True)
class RQM(Codec):
    """Private random rounding; unbiased for entries in [-clip, clip].

    Attributes:
        clip: c, above 0.
        delta: Delta, above 0: how far the outermost levels lie beyond; None: as far as c.
        levels: m, in [2, 65536].
        q: probability with which an inner level is kept, in (0, 1).
    """

    clip: float = 0.01
    delta: float | None = None
    levels: int = 16
    q: float = 0.42
    suits: ClassVar[tuple[Use, ...]] = ("update", "gradient")
    unbiased: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    no_feedback: ClassVar[str] = "what it hides in one message would be told by the next ones"

    def __post_init__(self) -> None:
        for name, size in (("clip", self.clip), ("delta", self.beyond)):
            if not 0.0 < size < math.inf:
                raise ValueError(f"{name}: got {size}; a number above 0 is allowed")
        if not 2 <= self.levels <= 1 << 16:
            raise ValueError(f"levels: got {self.levels}; 2 to 65536 are allowed")
        if not 0.0 < self.q < 1.0:
            raise ValueError(f"q: got {self.q}; a number in (0, 1) is allowed")

    @property
    def beyond(self) -> float:
        """Delta."""
        return self.clip if self.delta is None else self.delta

    @property
    def bits(self) -> int:
        """Bits of a level."""
        return (self.levels - 1).bit_length()

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Draw a level for each entry."""
        below, above, rounding = (uniform(keys, layout.size, purpose=p, dtype=torch.float64) for p in PURPOSES)
        levels = torch.empty(rows.shape, dtype=torch.uint8 if self.bits <= 8 else torch.int32, device=rows.device)
        for i, j, _ in tiles(len(rows), layout.size, 1, PIECE):
            levels[i, j] = self.quantise(rows[i, j], below[i, j], above[i, j], rounding[i, j])
        return [Quantised(row) for row in pack_bits(levels, self.bits)], memory

    def quantise(self, x: Tensor, below: Tensor, above: Tensor, rounding: Tensor) -> Tensor:
        """Levels z int64 for entries x of any shape, by uniform draws in [0, 1) of the same shape.

        Level i is kept with the ones between it and x left out if the draw is in ((1 - q)^(k + 1), (1 - q)^k] for its
        k-th place from x.
        """
        top, width = self.levels - 1, self.clip + self.beyond
        place = x.double().clamp_(-self.clip, self.clip).add_(width).mul_(top / (2.0 * width))
        cell = place.floor().clamp_(max=top - 1)
        # 1 - u lies in (0, 1]: a float64 that is at most (1 - q)^k with just that probability.
        powers = torch.tensor([(1.0 - self.q) ** k for k in range(top, 0, -1)], dtype=torch.float64, device=x.device)
        left_out = [top - torch.searchsorted(powers, 1.0 - u) for u in (below, above)]
        a = (cell - left_out[0]).clamp_(min=0)
        b = (cell + left_out[1]).add_(1).clamp_(max=top)
        return torch.where(rounding < place.sub_(a).div_(b - a), b, a).long()

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """The levels' values."""
        size = packed_bits_size(layout.size, self.bits)
        packed = stacked_field(payloads, Quantised, "levels", torch.uint8, [size])
        return self._values(self._checked(packed, layout).double()).to(layout.dtype)

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """The levels."""
        assert isinstance(payload, Quantised)
        return (unpack_bits(payload.levels, self.bits, layout.size),)

    def combine(self, payloads: Sequence[Content], layout: Layout) -> Total:
        """The sum that secure aggregation shows of several clients' messages, which nobody else has to see.

        Raises:
            ValueError: there is none, or one is malformed.
        """
        if not payloads:
            raise ValueError("payloads: got none; at least one is needed")
        size = packed_bits_size(layout.size, self.bits)
        sums = torch.zeros(layout.size, dtype=torch.int32)
        for payload in payloads:
            sums += self._checked(field_of(payload, Quantised, "levels", torch.uint8, [size]), layout).to(torch.int32)
        return Total(sums, len(payloads))

    def decode_total(self, total: Total, layout: Layout) -> Tensor:
        """The clients' mean [d], in the layout's dtype.

        Raises:
            ValueError: it is no sum of that many clients' levels.
        """
        sums = field_of(total, Total, "sums", torch.int32, [layout.size])
        if total.clients < 1 or (
            sums.numel() and not 0 <= int(sums.min()) <= int(sums.max()) <= total.clients * (self.levels - 1)
        ):
            raise ValueError(f"payload: sums of {total.clients} clients' levels are out of range")
        return self._values(sums.double() / total.clients).to(layout.dtype)

    def _checked(self, packed: Tensor, layout: Layout) -> Tensor:
        levels = unpack_bits(packed, self.bits, layout.size)
        if levels.numel() and int(levels.max()) >= self.levels:
            raise ValueError(f"payload: a level of {int(levels.max())}; below {self.levels} is allowed")
        return levels

    def _values(self, levels: Tensor) -> Tensor:
        width = self.clip + self.beyond
        return levels * (2.0 * width / (self.levels - 1)) - width
