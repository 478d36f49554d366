"""Whole-number arithmetic under the keyed randomness, written once for numpy and torch alike.

Only operators are used. Both libraries wrap around at 64 bits and shift to the right with the sign, so both
give the same bits; numpy has the smaller overhead an operation on the CPU, torch runs elsewhere and under
vmap. Arrays keep at least one dimension, because numpy warns when a scalar wraps around.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "CHUNK",
    "LOW32",
    "LOW63",
    "LOW64",
    "Array",
    "Ints",
    "array_of",
    "check_int64",
    "mix",
    "mix_int",
    "name_number",
    "philox_words",
]

Ints: TypeAlias = npt.NDArray[np.int64]
Array = TypeVar("Array", Ints, Tensor)

LOW32 = (1 << 32) - 1
LOW63 = (1 << 63) - 1
LOW64 = (1 << 64) - 1
CHUNK = 16384  # elements a chunk: half a dozen arrays of 128 KiB stay in a core's second-level cache


def mix_int(x: int) -> int:
    """The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection of 64-bit numbers."""
    x = (x + 0x9E3779B97F4A7C15) & LOW64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & LOW64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & LOW64
    return x ^ (x >> 31)


def mix(x: Array) -> Array:
    """`mix_int` on int64 arrays: the same constants as signed numbers, shifts with the sign masked off."""
    x = x + -0x61C8864680B583EB
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & 0x1FFFFFFFF)


def philox_words(key: Array, c0: Array, c1: Array, c2: Array, c3: Array) -> tuple[Array, Array, Array, Array]:
    """Philox4x32-10: ten rounds on a counter of four words in [0, 2**32) with the two words of a 64-bit key.

    A product of two words needs all 64 bits; wrapping around as a signed number does not change them. The low
    halves stay unmasked until the end, since they only meet other words in an exclusive or that is masked, and
    so do the keys. All is done in place, on copies of the shape of the result: few arrays stay in the cache.
    """
    k0, k1 = key & LOW32, key >> 32 & LOW32
    zero = key ^ key ^ c0 ^ c0
    c0, c1, c2, c3 = zero + c0, zero + c1, zero + c2, zero + c3
    for _ in range(10):
        c0 *= 0xD2511F53
        c2 *= 0xCD9E8D57
        c1 ^= c2 >> 32
        c1 ^= k0
        c1 &= LOW32
        c3 ^= c0 >> 32
        c3 ^= k1
        c3 &= LOW32
        c0, c1, c2, c3 = c1, c2, c3, c0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1 & LOW32, c2, c3 & LOW32


@lru_cache(maxsize=4096)
def name_number(name: str) -> int:
    """A stable number in [-2**63, 2**63) for a name: the same in every process, unlike `hash`."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"shoal.key").digest()
    return int.from_bytes(digest, "little", signed=True)


def array_of(x: Tensor) -> Ints | None:
    """The memory of x as an array, of one dimension at least; None if it cannot be read (device, vmap)."""
    if x.device.type != "cpu":
        return None
    try:
        array: Ints = x.numpy()
    except RuntimeError:
        return None
    return array.reshape(1) if array.ndim == 0 else array


def check_int64(name: str, x: Tensor) -> None:
    """Raise ValueError unless x is int64."""
    if x.dtype != torch.int64:
        raise ValueError(f"{name} must be int64, got {x.dtype}")
