"""MicroAdam: Adam's moments rebuilt from a window of sparse gradients; what was not sent waits in four bits an entry.

    a = g + Q^-1(e)         row (t - 1) mod window <- the k largest |a| of each block, with their signs
    a <- 0 there            e <- Q(a) = floor((a - low) / u + 1/2), u = (high - low) / 15, in buckets from low to high
    m^ = (1 - beta1) / (1 - beta1^t) sum_r beta1^age row_r        v^ likewise, of row_r^2 and beta2
    p <- (1 - lr lam) p - lr m^ / (sqrt(v^) + eps)

I.-V. Modoranu, M. Safaryan, G. Malinovsky, E. Kurtic, T. Robert, P. Richtarik, D. Alistarh, "MicroAdam: Accurate
Adaptive Optimization with Low Space Overhead and Provable Convergence", arXiv:2405.15593 (2024).

Choices. Blocks of the selection have 2^15 entries, so that places take 16 bits (the authors' size follows from a GPU's
shared memory). The ends of a bucket are not rounded to bfloat16, so that no entry falls outside its codes; a bucket of
equal entries has the code 0. Ages, bias correction and ring follow the parameter's own count of steps. The bucket size
has no published default; 100 000 is that of the authors' example.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import whole
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, sqrt
from shoal.optim.core.transform import Granularity, Shape

NARROW = 1 << 15  # entries of a block whose places fit into int16


@dataclass(frozen=True)
class MicroAdamScaling(Transform):
    """m^ / (sqrt(v^) + eps), both from the window.

    Attributes:
        beta1, beta2, eps: as Adam's.
        window: rows of the ring.
        density: share of the entries that a row takes.
        block: entries of a block of the selection; None is the whole parameter.
        bucket: entries that share the ends of their quantisation.
        bits: of a code of what was not sent, 2, 4 or 8; None keeps it unquantised.
        rounded: whether the window's values are bfloat16.
        narrow: whether places fit into int16.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    window: int = 10
    density: float = 0.01
    block: int | None = NARROW
    bucket: int = 100_000
    bits: int | None = 4
    rounded: bool = True
    narrow: bool = True

    granularity: ClassVar[Granularity] = "tensor"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The ring, and what was not sent: bytes of codes and the ends of their buckets."""

        def ring(shape: Shape) -> Shape:
            return self.window, sum(rows * k for rows, _, k in self._blocks(math.prod(shape)))

        def ends(shape: Shape) -> Shape:
            return (-(-math.prod(shape) // self.bucket),)

        sent = (
            Slot("indices", ring, torch.int16 if self.narrow else torch.int32),
            Slot("values", ring, torch.bfloat16 if self.rounded else None),
        )
        bits = self.bits
        if bits is None:
            return *sent, Slot("error")
        codes = Slot("error", lambda shape: (-(-math.prod(shape) * bits // 8),), torch.uint8)
        return *sent, codes, Slot("low", ends), Slot("high", ends)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The row to write, and the weights of the sums: that of m, and the root of that of v."""
        return {
            "row": (t - 1.0) % self.window,
            "weight1": (1.0 - self.beta1) / one_minus_power(self.beta1, t),
            "root2": sqrt((1.0 - self.beta2) / one_minus_power(self.beta2, t)),
        }

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Send the largest entries, keep the rest, and rebuild the moments."""
        a = u.reshape(-1) + self._remembered(s, u)
        block_starts, chosen = self._select(a)
        places = block_starts + chosen
        rows = torch.arange(self.window, device=a.device)
        now = (rows == c.row)[:, None]
        s.indices.copy_(torch.where(now, chosen.to(s.indices.dtype), s.indices))
        s.values.copy_(torch.where(now, a.gather(0, places).to(s.values.dtype), s.values))
        self._remember(s, a.scatter(0, places, 0.0))

        age = torch.remainder(c.row - rows.to(a.dtype), self.window)[:, None]
        everywhere = (block_starts + s.indices).flatten()
        values = s.values.to(a.dtype)
        nothing = torch.zeros_like(a)
        m = nothing.scatter_add(0, everywhere, (values * torch.pow(c.beta1, age)).flatten())
        v = nothing.scatter_add(0, everywhere, (values.square() * torch.pow(c.beta2, age)).flatten())
        return m.mul_(c.weight1).div_(v.sqrt_().mul_(c.root2).add_(c.eps)).view(u.shape)

    def _blocks(self, entries: int) -> list[tuple[int, int, int]]:
        """(how many, entries, chosen entries) of the whole blocks and of a shorter last one."""
        return [
            (rows, length, min(math.ceil(self.density * length), length))
            for rows, length in _runs(entries, self.block or entries)
        ]

    def _select(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """For each chosen entry where its block starts, and its place in there; the largest magnitudes."""
        starts, chosen, start = [], [], 0
        for rows, length, k in self._blocks(a.numel()):
            part = a[start : start + rows * length].view(rows, length)
            chosen.append(part.abs().topk(k, dim=-1, sorted=False).indices.flatten())
            first = torch.arange(rows, device=a.device) * length + start
            starts.append(first[:, None].expand(rows, k).reshape(-1))
            start += rows * length
        return torch.cat(starts), torch.cat(chosen)

    def _remembered(self, s: State, u: Tensor) -> Tensor:
        """Q^-1(e), flat."""
        if self.bits is None:
            return s.error.reshape(-1)  # type: ignore[no-any-return]
        codes = unpack(s.error, self.bits, u.numel()).to(u.dtype)
        steps = (s.high - s.low) / (2**self.bits - 1)
        parts, start, bucket = [], 0, 0
        for rows, length in _runs(u.numel(), self.bucket):
            some = slice(bucket, bucket + rows)
            part = codes[start : start + rows * length].view(rows, length)
            parts.append(part.mul(steps[some, None]).add_(s.low[some, None]).view(-1))
            start, bucket = start + rows * length, bucket + rows
        return torch.cat(parts)

    def _remember(self, s: State, a: Tensor) -> None:
        """e <- Q(a)."""
        if self.bits is None:
            s.error.copy_(a.view(s.error.shape))
            return
        levels = 2**self.bits - 1
        codes, lows, highs, start = [], [], [], 0
        for rows, length in _runs(a.numel(), self.bucket):
            part = a[start : start + rows * length].view(rows, length)
            low, high = part.amin(1, keepdim=True), part.amax(1, keepdim=True)
            step = (high - low) / levels
            step = torch.where(step > 0.0, step, 1.0)
            codes.append((part - low).div_(step).add_(0.5).clamp(max=levels).to(torch.uint8).view(-1))
            lows.append(low.view(-1))
            highs.append(high.view(-1))
            start += rows * length
        s.error.copy_(pack(torch.cat(codes), self.bits))
        s.low.copy_(torch.cat(lows))
        s.high.copy_(torch.cat(highs))


def _runs(entries: int, length: int) -> list[tuple[int, int]]:
    """(how many, entries) of the pieces of a length into which a vector falls, and of a shorter last one."""
    whole_ones, rest = divmod(entries, length)
    return [(rows, size) for rows, size in ((whole_ones, length), (1, rest)) if rows and size]


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 [d], each below 2^bits, as bytes uint8 [ceil(d bits / 8)]; the first in the lowest bits.

    As `shoal.tensors.packing.pack_bits`, without looking at the values, so that it can be stacked by vmap.
    """
    per_byte = 8 // bits
    rows = torch.nn.functional.pad(codes, (0, -codes.numel() % per_byte)).view(-1, per_byte)
    packed = rows[:, 0]
    for i in range(1, per_byte):
        packed = packed | (rows[:, i] << bits * i)
    return packed


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes, uint8 [count], that `pack` packed."""
    mask = (1 << bits) - 1
    return torch.stack([(packed >> bits * i) & mask for i in range(8 // bits)], 1).view(-1)[:count]


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value <= 1.0


class MicroAdam(Optimizer):
    """Adam in 0.9 bytes of state a parameter, with decoupled decay.

    Only entries that were among the largest in the last `window` steps move. `topk_block_size=None` selects in the
    whole parameter, with places of 32 bits where 16 are too few; `quant_bits=None` keeps the rest unquantised;
    `window_dtype="full"` keeps the window's values unrounded. Which of equal magnitudes are sent is not specified.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    window: int = 10
    density: float = 0.01
    topk_block_size: int | None = NARROW
    quant_block_size: int = 100_000
    quant_bits: int | None = 4
    window_dtype: str = "bfloat16"

    about: ClassVar[dict[str, Argument]] = {
        "window": Argument("sparse gradients that are kept", "a whole number >= 1", whole(1)),
        "density": Argument("share of the entries in a sparse gradient", "a number in (0, 1]", _share),
        "topk_block_size": Argument(
            "entries from which a share is selected; None: the parameter's",
            "a whole number >= 1, or None",
            lambda v: v is None or whole(1)(v),
        ),
        "quant_block_size": Argument(
            "entries that share their smallest and largest code", "a whole number >= 1", whole(1)
        ),
        "quant_bits": Argument(
            "bits of what is not sent; None: unquantised", "2, 4, 8 or None", lambda v: v in (2, 4, 8, None)
        ),
        "window_dtype": Argument(
            "how sparse gradients are kept", '"bfloat16" or "full"', lambda v: v in ("bfloat16", "full")
        ),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments of the window."""
        beta1, beta2 = h.betas
        scaling = MicroAdamScaling(
            beta1,
            beta2,
            h.eps,
            window=h.window,
            density=h.density,
            block=h.topk_block_size,
            bucket=h.quant_block_size,
            bits=h.quant_bits,
            rounded=h.window_dtype == "bfloat16",
            narrow=(h.topk_block_size or math.prod(param.shape)) <= NARROW,
        )
        return *decoupled(h.weight_decay), scaling
