"""Entries with few possible values, truly packed: signs, trits, and sums of these over several senders.

Two symbols take a bit, three take 1.6 bits (five in a byte), and more take ceil(log2(symbols)) bits an entry. A message
says how many symbols it is made of, so that a third one is paid for only where it occurs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.compression.codec import field_of
from shoal.tensors.packing import (
    pack_bits,
    pack_trits,
    packed_bits_size,
    packed_trits_size,
    unpack_bits,
    unpack_trits,
)
from shoal.tensors.payload import Content, Payload


@dataclass(frozen=True)
class Symbols(Payload):
    """Whole numbers in [0, levels), packed in uint8 [bytes]."""

    packed: Tensor
    levels: int


def pack_symbols(values: Tensor, levels: int) -> Symbols:
    """Whole numbers [d] in [0, levels), levels in 2..65536."""
    return Symbols(pack_trits(values - 1) if levels == 3 else pack_bits(values, _width(levels)), levels)


def unpack_symbols(payload: Content, d: int, allowed: Collection[int]) -> Tensor:
    """The whole numbers [d] in [0, levels) of a payload from anybody.

    Args:
        payload: what came.
        d: how many entries there must be.
        allowed: what `levels` may be.

    Raises:
        ValueError: it is something else.
    """
    levels = payload.levels if isinstance(payload, Symbols) else 0
    if isinstance(payload, Symbols) and levels not in allowed:
        raise ValueError(f"payload: got {levels} levels; {' or '.join(map(str, sorted(allowed)))} are allowed")
    size = packed_trits_size(d) if levels == 3 else packed_bits_size(d, _width(levels))
    packed = field_of(payload, Symbols, "packed", torch.uint8, [size])
    if levels == 3:
        return unpack_trits(packed, d) + 1
    values = unpack_bits(packed, _width(levels), d)
    if d and int(values.max()) >= levels:
        raise ValueError(f"payload: got an entry {int(values.max())} of {levels} levels")
    return values


def pack_signs(signs: Tensor) -> Symbols:
    """Numbers [d] in {-1, 0, 1}: a bit each, or 1.6 bits each if there is a 0 among them."""
    return pack_sum(signs, 1)


def unpack_signs(payload: Content, d: int) -> Tensor:
    """What `pack_signs` packed, int32 [d]; raises ValueError if it is something else."""
    return unpack_sum(payload, d, 1)


def pack_sum(total: Tensor, n: int) -> Symbols:
    """A sum [d] of n numbers in {-1, 0, 1}, in [-n, n].

    Where every entry is n minus an even number, as sums of n signs without zeros are, n + 1 symbols suffice; else there
    are 2n + 1.
    """
    shifted = total.to(torch.int32) + n
    if bool((shifted & 1).any()):
        return pack_symbols(shifted, 2 * n + 1)
    return pack_symbols(shifted >> 1, n + 1)


def unpack_sum(payload: Content, d: int, n: int) -> Tensor:
    """What `pack_sum` packed for the same n, int32 [d]; raises ValueError if it is something else."""
    values = unpack_symbols(payload, d, (n + 1, 2 * n + 1)).to(torch.int32)
    assert isinstance(payload, Symbols)
    return (values if payload.levels == 2 * n + 1 else 2 * values) - n


def _width(levels: int) -> int:
    """Bits of one of so many symbols."""
    return max(1, (levels - 1).bit_length())
