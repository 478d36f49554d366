"""Small whole numbers, truly packed into bytes: bits (any width from 1 to 32) and trits (five a byte).

The last dimension is packed, the others are rows; every row begins with a new byte. Within a row the stream
of bits is little endian: value i takes bits i * bits, ..., and bit k is bit k % 8 of byte k // 8. The unused
bits of the last byte are zero, and so are the unused trits (as digits).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["pack_bits", "pack_trits", "packed_bits_size", "packed_trits_size", "unpack_bits", "unpack_trits"]

_TRITS = 5  # a byte holds five trits, since 3**5 = 243 <= 256: 1.6 bits each, where the entropy is 1.585


def packed_bits_size(m: int, bits: int) -> int:
    """Bytes that `m` values of `bits` bits take."""
    return -(-m * _checked_bits(bits) // 8)


def packed_trits_size(m: int) -> int:
    """Bytes that `m` trits take."""
    return -(-m // _TRITS)


def pack_bits(values: Tensor, bits: int) -> Tensor:
    """Pack whole numbers in [0, 2**bits).

    Args:
        values: [..., m] of a whole-number type or bool.
        bits: width of a value, in 1..32.

    Returns:
        uint8 [..., ceil(m * bits / 8)].

    Raises:
        ValueError: `bits` or a value is out of range, or `values` is floating point or a scalar.

    >>> pack_bits(torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 1]), 1)
    tensor([1, 1], dtype=torch.uint8)
    """
    _checked_bits(bits)
    values = _checked_values("values", values, 0, (1 << bits) - 1)
    if bits == 1 and values.device.type == "cpu":
        bytes_: Tensor = torch.from_numpy(np.packbits(values.to(torch.bool).numpy(), axis=-1, bitorder="little"))
        return bytes_
    narrow = _narrowest(bits)
    count, width = _group(bits)
    groups = _grouped(values.to(narrow), count)
    packed = torch.zeros(*groups.shape[:-1], width, dtype=torch.uint8, device=values.device)
    for i in range(count):
        for j in range(i * bits // 8, (i * bits + bits - 1) // 8 + 1):
            shift = i * bits - 8 * j
            value = groups[..., i]
            packed[..., j] |= ((value << shift if shift >= 0 else value >> -shift) & 255).to(torch.uint8)
    return packed.flatten(-2)[..., : packed_bits_size(values.shape[-1], bits)]


def unpack_bits(packed: Tensor, bits: int, m: int) -> Tensor:
    """The first `m` values that `pack_bits` packed.

    Args:
        packed: uint8 [..., ceil(m * bits / 8)].
        bits: width of a value, in 1..32.
        m: number of values in a row.

    Returns:
        [..., m], uint8 for up to 8 bits, int32 for up to 16, int64 for more.

    Raises:
        ValueError: `bits` is out of range, or `packed` is not uint8 or not of that length.
    """
    _check_packed(packed, packed_bits_size(m, bits), f"{m} values of {bits} bits")
    if bits == 1 and packed.device.type == "cpu":
        ones: Tensor = torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1, count=m, bitorder="little"))
        return ones
    count, width = _group(bits)
    groups = _grouped(packed, width)
    wide = _narrowest(bits)
    values = torch.zeros(*groups.shape[:-1], count, dtype=wide, device=packed.device)
    mask = (1 << bits) - 1
    for i in range(count):
        for j in range(i * bits // 8, (i * bits + bits - 1) // 8 + 1):
            shift = i * bits - 8 * j
            byte = groups[..., j].to(wide)
            values[..., i] |= (byte >> shift if shift >= 0 else byte << -shift) & mask
    return values.flatten(-2)[..., :m]


def pack_trits(values: Tensor) -> Tensor:
    """Pack numbers in {-1, 0, 1}, five a byte: the sum of (v_i + 1) * 3**i over i in 0..4.

    Args:
        values: [..., m] of a whole-number or floating-point type.

    Returns:
        uint8 [..., ceil(m / 5)].

    Raises:
        ValueError: another value, or a scalar.

    >>> pack_trits(torch.tensor([1, -1, 0])).tolist()
    [11]
    """
    if values.is_floating_point():
        whole = values.to(torch.int8)
        if bool((whole != values).any()):
            raise ValueError("values must be in {-1, 0, 1}, got others")
        values = whole
    digits = _checked_values("values", values, -1, 1).to(torch.int8).add(1).view(torch.uint8)
    groups = _grouped(digits, _TRITS)
    packed = groups[..., _TRITS - 1]
    for i in range(_TRITS - 2, -1, -1):
        packed = packed * 3 + groups[..., i]
    return packed


def unpack_trits(packed: Tensor, m: int) -> Tensor:
    """The first `m` values that `pack_trits` packed.

    Args:
        packed: uint8 [..., ceil(m / 5)].
        m: number of values in a row.

    Returns:
        int8 [..., m], values in {-1, 0, 1}.

    Raises:
        ValueError: `packed` is not uint8, not of that length, or has a byte above 242.
    """
    _check_packed(packed, packed_trits_size(m), f"{m} trits")
    if packed.numel() and int(packed.max()) >= 3**_TRITS:
        raise ValueError(f"packed must have bytes of at most 242, got {int(packed.max())}")
    table = torch.tensor(_TRIT_TABLE, dtype=torch.int8, device=packed.device)
    return table[packed.long()].flatten(-2)[..., :m]


_TRIT_TABLE = [[byte // 3**i % 3 - 1 for i in range(_TRITS)] for byte in range(3**_TRITS)]


def _group(bits: int) -> tuple[int, int]:
    """The fewest values that fill whole bytes, and how many bytes these are."""
    width = math.lcm(bits, 8)
    return width // bits, width // 8


def _grouped(x: Tensor, size: int) -> Tensor:
    """[..., m] -> [..., ceil(m / size), size], filled up with zeros."""
    fill = -x.shape[-1] % size
    if fill:
        x = torch.cat((x, x.new_zeros(*x.shape[:-1], fill)), -1)
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)


def _narrowest(bits: int) -> torch.dtype:
    """Of what may be shifted within a byte's reach: 16 + 7 bits fit 32, 32 + 7 do not."""
    return torch.uint8 if bits <= 8 else torch.int32 if bits <= 16 else torch.int64


def _checked_bits(bits: int) -> int:
    if not 1 <= bits <= 32:
        raise ValueError(f"bits must be in 1..32, got {bits}")
    return bits


def _checked_values(name: str, x: Tensor, low: int, high: int) -> Tensor:
    if x.ndim == 0 or x.is_floating_point() or x.is_complex():
        raise ValueError(f"{name} must be whole numbers [..., m], got {x.dtype} {list(x.shape)}")
    if x.numel() and x.dtype != torch.bool:
        smallest, largest = (int(v) for v in torch.aminmax(x))
        if smallest < low or largest > high:
            raise ValueError(f"{name} must be in [{low}, {high}], got values in [{smallest}, {largest}]")
    return x


def _check_packed(packed: Tensor, size: int, what: str) -> None:
    if packed.dtype != torch.uint8 or packed.ndim == 0 or packed.shape[-1] != size:
        raise ValueError(f"packed must be uint8 [..., {size}] for {what}, got {packed.dtype} {list(packed.shape)}")
