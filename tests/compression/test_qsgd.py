"""QSGD: moments and codes against the restatement in `tests/restatements/compression_b/qsgd.py`; packed sizes."""

from __future__ import annotations

import math

import pytest
import torch

from shoal.compression import QSGD
from shoal.compression.qsgd import Levels
from shoal.tensors import uniform
from shoal.tensors.packing import unpack_bits

from ..restatements.compression_b import qsgd as restated
from .vectors import flat, sent, spread_of, vector, wide


@pytest.mark.parametrize(("levels", "d"), [(1, 60), (7, 500), (200, 500)])
def test_one_bucket_is_the_restatement_with_the_same_draws(levels: int, d: int) -> None:
    layout = flat(d)
    x = vector(layout)
    payload, decoded = sent(QSGD(levels, bucket=0), x, layout, draw=6)
    assert isinstance(payload, Levels)
    norm, codes = restated.quantise(x.numpy(), uniform(6, d, dtype=torch.float64).numpy(), levels)
    bits = math.ceil(math.log2(2 * levels + 1))
    assert (unpack_bits(payload.codes, bits, d).long() - levels).tolist() == codes.tolist()
    torch.testing.assert_close(decoded, torch.from_numpy(restated.decode(norm, codes, levels)), rtol=1e-13, atol=0.0)


def test_buckets_and_layers_are_vectors_of_their_own() -> None:
    layout = wide()
    x = vector(layout)
    draws = uniform(5, layout.size, dtype=torch.float64)
    cuts = {
        0: [s.slice for s in layout],
        100: [slice(i, min(i + 100, layout.size)) for i in range(0, layout.size, 100)],
    }
    for bucket, stretches in cuts.items():
        _, decoded = sent(QSGD(3, bucket), x, layout)
        for s in stretches:
            norm, codes = restated.quantise(x[s].numpy(), draws[s].numpy(), 3)
            expected = torch.from_numpy(restated.decode(norm, codes, 3))
            torch.testing.assert_close(decoded[s], expected, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("levels", [1, 7, 60])
def test_the_variance_is_the_exact_one_and_below_the_bound(levels: int) -> None:
    layout = flat(150)
    x = vector(layout)
    exact = restated.variance(x.numpy(), levels)
    assert exact <= restated.variance_bound(x.numpy(), levels)
    assert spread_of(QSGD(levels, bucket=0), x, layout) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 7, 8, 127, 128, 32767])
def test_an_entry_takes_the_bits_of_its_signed_levels(levels: int) -> None:
    layout = flat(77)
    payload, _ = sent(QSGD(levels, bucket=0), vector(layout), layout)
    assert isinstance(payload, Levels)
    assert payload.codes.nbytes == math.ceil((restated.fixed_bits(77, levels) - 32) / 8)
    assert QSGD(levels).bits == 1 + math.ceil(math.log2(levels + 1))


def test_multiples_of_the_step_come_back_exactly() -> None:
    """[3, 4, 0, 0] has the norm 5."""
    x = torch.tensor([3.0, -4.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.equal(sent(QSGD(5, 0), x, flat(4))[1], x)


def test_a_level_above_the_highest_is_refused() -> None:
    layout = flat(2)
    codes = torch.tensor([0b1111_0000], dtype=torch.uint8)
    with pytest.raises(ValueError, match="at most 14"):
        QSGD(7).decode(Levels(codes, torch.ones(1, dtype=torch.float64)), layout)


@pytest.mark.parametrize(("levels", "bucket", "name"), [(0, 512, "levels"), (32768, 512, "levels"), (7, -1, "bucket")])
def test_settings_out_of_range_are_refused(levels: int, bucket: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: got"):
        QSGD(levels, bucket)
