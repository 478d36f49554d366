"""Eight bits in blocks: bounds, sizes, and the restatement in `tests/restatements/compression_b/blockwise.py`."""

from __future__ import annotations

import math

import pytest
import torch

from shoal.compression import Int8, StochasticInt8
from shoal.compression.int8 import Bytes8
from shoal.tensors import Layout, uniform

from ..restatements.compression_b import blockwise
from .vectors import flat, sent, spread_of, vector, wide


@pytest.mark.parametrize(("d", "block"), [(1000, 64), (1000, 1000), (1000, 4096), (70, 7), (5, 1)])
def test_codes_and_scales_are_those_of_the_restatement(d: int, block: int) -> None:
    layout = flat(d)
    x = vector(layout)
    payload, decoded = sent(Int8(block), x, layout)
    assert isinstance(payload, Bytes8)
    codes, maxima = blockwise.quantise(x.numpy(), block)
    assert payload.codes.tolist() == codes.tolist()
    assert payload.scales.tolist() == maxima.tolist()
    torch.testing.assert_close(decoded, torch.from_numpy(blockwise.decode(codes, maxima, block)), rtol=1e-15, atol=0.0)


def test_draws_round_as_in_the_restatement() -> None:
    layout, block = flat(900), 100
    x = vector(layout)
    payload, _ = sent(StochasticInt8(block), x, layout, draw=12)
    assert isinstance(payload, Bytes8)
    draws = uniform(12, 900, dtype=torch.float64).numpy()
    codes, _ = blockwise.quantise_stochastically(x.numpy(), draws, block)
    assert payload.codes.tolist() == codes.tolist()


def test_an_entry_is_off_by_at_most_half_a_step_and_the_largest_not_at_all() -> None:
    layout, block = Layout.from_shapes({"x": (5000,)}), 50
    x = vector(layout)
    _, decoded = sent(Int8(block), x, layout)
    largest = x.view(-1, block).abs().amax(1, keepdim=True)
    assert bool(((decoded - x).view(-1, block).abs() <= largest / 254 * (1 + 1e-5)).all())
    at = x.view(-1, block).abs().argmax(1, keepdim=True)
    torch.testing.assert_close(
        decoded.view(-1, block).gather(1, at), x.view(-1, block).gather(1, at), rtol=3e-7, atol=0
    )


def test_whole_multiples_of_a_step_come_back_exactly() -> None:
    layout = flat(255)
    x = torch.arange(-127, 128, dtype=torch.float64) * 0.25
    assert torch.equal(sent(Int8(255), x, layout)[1], x)
    assert torch.equal(sent(StochasticInt8(255), x, layout)[1], x)


def test_decoding_again_changes_nothing() -> None:
    """The decoded vector is a fixed point but for the rounding of the largest entry."""
    layout = wide()
    payload, decoded = sent(Int8(32), vector(layout), layout)
    again, _ = sent(Int8(32), decoded, layout)
    assert isinstance(payload, Bytes8)
    assert isinstance(again, Bytes8)
    assert torch.equal(again.codes, payload.codes)


def test_the_variance_is_that_of_the_restatement() -> None:
    layout = flat(300)
    x = vector(layout)
    expected = float(blockwise.variance(x.numpy(), 60).sum())
    assert spread_of(StochasticInt8(60), x, layout) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("d", "block"), [(1000, 256), (256, 256), (257, 256), (3, 1)])
def test_the_size_is_a_byte_an_entry_and_four_a_block(d: int, block: int) -> None:
    layout = Layout.from_shapes({"x": (d,)})
    payload, _ = sent(Int8(block), vector(layout), layout)
    assert isinstance(payload, Bytes8)
    bits = 8 * (payload.codes.nbytes + payload.scales.nbytes)
    assert bits == blockwise.bits(d, block) == 8 * d + 32 * math.ceil(d / block)


def test_a_block_without_entries_is_refused() -> None:
    with pytest.raises(ValueError, match="block: got 0"):
        Int8(0)
