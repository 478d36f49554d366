"""Places of sparse payloads: exact round trips, sizes in closed form, and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal.compression.indices import gaps_of, pack_places, unpack_places
from shoal.tensors import integers, key, permutation

PLACES = st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 2**32)).map(
    lambda given: (permutation(key(given[2]), max(given[:2]))[: min(given[:2])].sort().values, max(given[:2]))
)


def rice_bits(gaps: list[int], low: int) -> int:
    """The code written out as text, one gap after the other."""
    return sum(len(format(gap, "b").zfill(low)[-low:]) * bool(low) + len("0" * (gap >> low) + "1") for gap in gaps)


@given(given=PLACES)
@settings(deadline=None)
def test_places_come_back(given: tuple[Tensor, int]) -> None:
    places, size = given
    packed, low = pack_places(places, size)
    assert unpack_places(packed, low, places.numel(), size).tolist() == places.tolist()


@given(given=PLACES)
@settings(deadline=None)
def test_gaps_are_the_entries_skipped(given: tuple[Tensor, int]) -> None:
    places, size = given
    chosen = [i in set(places.tolist()) for i in range(size)]
    runs = "".join("1" if c else "0" for c in chosen).split("1")[:-1]
    assert gaps_of(places, size).tolist() == [len(run) for run in runs]


@given(given=PLACES)
@settings(deadline=None)
def test_no_number_of_low_bits_makes_the_code_shorter(given: tuple[Tensor, int]) -> None:
    places, size = given
    gaps = gaps_of(places, size).tolist()
    packed, low = pack_places(places, size)
    bits = {other: rice_bits(gaps, other) for other in range(12)}
    assert bits[low] == min(bits.values())
    assert packed.numel() == math.ceil(low * len(gaps) / 8) + math.ceil((bits[low] - low * len(gaps)) / 8)
    assert packed.numel() <= math.ceil(size / 8) + 1


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.5])
def test_random_places_take_little_more_than_their_entropy(density: float) -> None:
    size = 200_000
    places = permutation(key(3, int(1 / density)), size)[: int(density * size)].sort().values
    entropy = -size * (density * math.log2(density) + (1 - density) * math.log2(1 - density))
    assert entropy * 0.99 < 8 * pack_places(places, size)[0].numel() < 1.04 * entropy


def test_places_of_a_large_vector_come_back() -> None:
    size = 1 << 32
    places = torch.tensor([0, 5, 70_000, size - 1])
    assert unpack_places(*pack_places(places, size), 4, size).tolist() == places.tolist()


@given(st.binary(max_size=40), st.integers(0, 32), st.integers(0, 60))
@settings(deadline=None)
def test_any_bytes_give_places_in_order_and_range_or_are_refused(data: bytes, low: int, count: int) -> None:
    packed = torch.tensor(list(data), dtype=torch.uint8)
    try:
        places = unpack_places(packed, low, count, 50)
    except ValueError:
        return
    assert places.numel() == count
    assert places.tolist() == sorted(set(places.tolist()) & set(range(50)))


@pytest.mark.parametrize(
    ("places", "size", "message"),
    [
        (torch.tensor([1, 1]), 4, "ascend"),
        (torch.tensor([2, 1]), 4, "ascend"),
        (torch.tensor([-1]), 4, "ascend"),
        (torch.tensor([4]), 4, "ascend"),
        (torch.tensor([1.0]), 4, "int64"),
        (integers(1, 3, (1, 1)), 4, "int64"),
        (torch.tensor([1]), 1 << 33, "size"),
    ],
)
def test_places_out_of_order_or_range_are_refused(places: Tensor, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_places(places, size)
