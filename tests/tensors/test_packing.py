"""Packing: round trips, exact sizes, and bits where the description says they are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.tensors.packing import (
    pack_bits,
    pack_trits,
    packed_bits_size,
    packed_trits_size,
    unpack_bits,
    unpack_trits,
)
from shoal.tensors.random import integers

SHAPES = st.lists(st.integers(0, 20), min_size=1, max_size=3).map(tuple)


@given(bits=st.integers(1, 31), shape=SHAPES, key=st.integers(0, 2**32))
@settings(deadline=None)
def test_bits_come_back_and_take_no_more_room_than_they_need(bits: int, shape: tuple[int, ...], key: int) -> None:
    values = integers(key, 1 << bits, shape)
    packed = pack_bits(values, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (*shape[:-1], -(-shape[-1] * bits // 8))
    assert packed.shape[-1] == packed_bits_size(shape[-1], bits)
    assert torch.equal(unpack_bits(packed, bits, shape[-1]).long(), values)


@given(bits=st.integers(1, 31), m=st.integers(0, 40), key=st.integers(0, 2**32))
@settings(deadline=None)
def test_the_stream_is_the_values_in_base_two_to_the_bits_little_endian(bits: int, m: int, key: int) -> None:
    values = integers(key, 1 << bits, m)
    number = sum(v << (bits * i) for i, v in enumerate(values.tolist()))
    assert bytes(pack_bits(values, bits).tolist()) == number.to_bytes(packed_bits_size(m, bits), "little")


def test_the_widest_values_come_back() -> None:
    values = torch.tensor([(1 << 32) - 1, 0, 1 << 31, 1])
    assert unpack_bits(pack_bits(values, 32), 32, 4).tolist() == values.tolist()


def test_one_bit_is_packed_as_numpy_packs_little_endian_bits() -> None:
    signs = integers(1, 2, (5, 83)).bool()
    assert np.array_equal(pack_bits(signs, 1).numpy(), np.packbits(signs.numpy(), axis=-1, bitorder="little"))


@given(shape=SHAPES, key=st.integers(0, 2**32), dtype=st.sampled_from([torch.int8, torch.int64, torch.float32]))
@settings(deadline=None)
def test_trits_come_back_five_a_byte(shape: tuple[int, ...], key: int, dtype: torch.dtype) -> None:
    values = (integers(key, 3, shape) - 1).to(dtype)
    packed = pack_trits(values)
    assert packed.shape == (*shape[:-1], packed_trits_size(shape[-1]))
    assert packed.shape[-1] == -(-shape[-1] // 5)
    assert torch.equal(unpack_trits(packed, shape[-1]).to(dtype), values)


def test_a_byte_of_trits_is_a_number_in_base_three() -> None:
    everything = torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 5)
    expected = ((everything + 1) * torch.tensor([1, 3, 9, 27, 81])).sum(-1, keepdim=True)
    assert torch.equal(pack_trits(everything).long(), expected)


def test_rows_that_are_not_contiguous_pack_like_their_copies() -> None:
    values = integers(2, 4, (30, 7)).T
    assert torch.equal(pack_bits(values, 2), pack_bits(values.contiguous(), 2))
    assert torch.equal(unpack_bits(pack_bits(values, 2).T.contiguous().T, 2, 30).long(), values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack_bits(torch.tensor([0]), 0), "bits"),
        (lambda: pack_bits(torch.tensor([0]), 33), "bits"),
        (lambda: pack_bits(torch.tensor([4]), 2), "values"),
        (lambda: pack_bits(torch.tensor([-1]), 2), "values"),
        (lambda: pack_bits(torch.tensor([1.0]), 2), "values"),
        (lambda: pack_bits(torch.tensor(1), 2), "values"),
        (lambda: unpack_bits(torch.zeros(2, dtype=torch.uint8), 1, 17), "packed"),
        (lambda: unpack_bits(torch.zeros(2, dtype=torch.int8), 1, 16), "packed"),
        (lambda: pack_trits(torch.tensor([2])), "values"),
        (lambda: pack_trits(torch.tensor([0.5])), "values"),
        (lambda: pack_trits(torch.tensor([float("nan")])), "values"),
        (lambda: unpack_trits(torch.tensor([243], dtype=torch.uint8), 5), "242"),
        (lambda: unpack_trits(torch.tensor([0], dtype=torch.uint8), 6), "packed"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
