"""Places of the entries that a sparse payload holds, in few bits.

Ascending places i_0 < i_1 < ... in range(size) are coded by what lies between them, i_0, i_1 - i_0 - 1, ..., in the
Rice code: gap >> low in unary, the `low` last bits as they are. Of n evenly random places among d it takes about the
entropy, n log2(e d/n) bits; with low = 0 it is the bitmap up to the last place, so that it is never longer than `size`
bits.

R. F. Rice, "Some Practical Universal Noiseless Coding Techniques", JPL Publication 79-22, 1979.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shoal.tensors.packing import pack_bits, packed_bits_size, unpack_bits

WIDEST = 32


def pack_places(places: Tensor, size: int) -> tuple[Tensor, int]:
    """The Rice code of the gaps, with the number of low bits that makes it shortest.

    Args:
        places: int64 [n], ascending, in range(size); size at most 2**32.
        size: of the vector.

    Returns:
        uint8 [m] and the number of low bits: first n * low bits, padded to a byte, then the gaps' high parts in unary
        (so many zeros, and a one).

    Raises:
        ValueError: places out of order or out of range.
    """
    gaps = gaps_of(places, size)
    if not gaps.numel():
        return torch.empty(0, dtype=torch.uint8, device=places.device), 0
    low = _best_low(gaps)
    high = gaps >> low
    ends = (high + 1).cumsum(0) - 1
    unary = torch.zeros(int(ends[-1]) + 1, dtype=torch.uint8, device=places.device)
    unary[ends] = 1
    parts = [pack_bits(gaps & (1 << low) - 1, low)] if low else []
    return torch.cat([*parts, pack_bits(unary, 1)]), low


def unpack_places(packed: Tensor, low: int, count: int, size: int) -> Tensor:
    """The places [count] that `pack_places` packed.

    Raises:
        ValueError: the bytes are not those of so many places in range(size).
    """
    if not 0 <= low <= WIDEST:
        raise ValueError(f"low: got {low}; 0 to {WIDEST} is allowed")
    if not 0 <= count <= size:
        raise ValueError(f"count: got {count}; 0 to {size} is allowed")
    cut = packed_bits_size(count, low) if low else 0
    if packed.dtype != torch.uint8 or packed.ndim != 1 or packed.numel() < cut or (not count and packed.numel()):
        raise ValueError(f"packed: got {packed.dtype} {list(packed.shape)}; uint8 [{cut} or more] is needed")
    # The unary part is no longer than its ones and, for every 2**low of the vector, a zero.
    if packed.numel() - cut > (count + (size >> low)) // 8 + 1:
        raise ValueError(f"packed: got {packed.numel()} bytes; too many for {count} places in {size}")
    ends = unpack_bits(packed[cut:], 1, 8 * (packed.numel() - cut)).nonzero().squeeze(-1)
    if ends.numel() != count:
        raise ValueError(f"packed: got {ends.numel()} places; {count} are needed")
    gaps = _gaps(ends) << low
    if low:
        gaps |= unpack_bits(packed[:cut], low, count)
    return places_of(gaps, size)


def gaps_of(places: Tensor, size: int) -> Tensor:
    """How many entries lie before each of the places [n], since the one before: int64 [n], 0 or more.

    Raises:
        ValueError: places out of order or out of range, or a size above 2**32.
    """
    if places.dtype != torch.int64 or places.ndim != 1:
        raise ValueError(f"places: got {places.dtype} {list(places.shape)}; int64 [n] is needed")
    if not 0 <= size <= 1 << WIDEST:
        raise ValueError(f"size: got {size}; 0 to 2**{WIDEST} is allowed")
    gaps = _gaps(places)
    if gaps.numel() and (int(gaps.min()) < 0 or int(places[-1]) >= size):
        raise ValueError(f"places: must ascend in range({size})")
    return gaps


def places_of(gaps: Tensor, size: int) -> Tensor:
    """The places [n] with these gaps, int64 [n], each at least 0 and less than 2**33.

    Raises:
        ValueError: the last one is not in range(size).
    """
    if not gaps.numel():
        return gaps
    places = (gaps + 1).cumsum(0) - 1
    if int(places[-1]) >= size:
        raise ValueError(f"packed: its last place is {int(places[-1])}; less than {size} is allowed")
    return places


def _gaps(places: Tensor) -> Tensor:
    return places.diff(prepend=places.new_full((1,), -1)) - 1


def _best_low(gaps: Tensor) -> int:
    """The number of low bits with the shortest code, near to log2 of the mean gap."""
    near = max(0, int(gaps.double().mean()).bit_length())
    lengths = {low: gaps.numel() * low + int((gaps >> low).sum()) for low in range(near + 2)}
    return min(lengths, key=lambda low: lengths[low])


def _check_bytes(name: str, packed: Tensor, size: int) -> None:
    if packed.dtype != torch.uint8 or packed.shape != (size,):
        raise ValueError(f"{name}: got {packed.dtype} {list(packed.shape)}; uint8 [{size}] is needed")
