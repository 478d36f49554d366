"""Tiles cover everything once; sums and random rounding are what they are said to be, whatever the stack."""

from __future__ import annotations

import math

import pytest
import torch

from shoal.compression.blocks import SUMMED, aligned, rounded_at_random, sums, tiles
from shoal.tensors import derive, key, normal, uniform


@pytest.mark.parametrize(
    ("n", "d", "block"), [(1, 1000, 7), (9, 50, 50), (5, 33, 64), (3, 96, 8), (0, 10, 2), (4, 0, 3)]
)
@pytest.mark.parametrize("piece", [1, 64, 1 << 20])
def test_tiles_cover_every_number_and_every_block_once(n: int, d: int, block: int, piece: int) -> None:
    numbers, blocks = torch.zeros(n, d), torch.zeros(n, math.ceil(d / block))
    for i, j, k in tiles(n, d, block, piece):
        numbers[i, j] += 1.0
        blocks[i, k] += 1.0
        assert j.start == k.start * block
        assert numbers[i, j].numel() <= max(piece, block)
    assert bool((numbers == 1.0).all())
    assert bool((blocks == 1.0).all())


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("m", [1, 1000, SUMMED, 2 * SUMMED + 77])
def test_sums_are_exact_to_float64_and_no_row_looks_at_another(power: int, m: int) -> None:
    rows = normal(derive(key(3), torch.arange(5)), m + 9)[:, 9:]
    found = sums(rows, power)
    for row, total in zip(rows, found.tolist(), strict=True):
        assert total == pytest.approx(math.fsum(abs(x) ** power for x in row.tolist()), rel=1e-14)
        assert sums(row[None], power).tolist() == [total]
    assert sums(rows.unsqueeze(1).expand(-1, 2, -1), power).tolist() == [[total, total] for total in found.tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_goes_up_just_where_the_draw_is_below_the_fraction(dtype: torch.dtype) -> None:
    r = normal(key(5), 4000, dtype=dtype) * 100.0
    r[:8] = torch.tensor([0.0, -0.0, 3.0, -3.0, 0.5, -0.5, 1e-30, -1e-30])
    draws = uniform(key(6), 4000, dtype=dtype)
    draws[9::3] = r[9::3] - r[9::3].floor()  # equal to the fraction: not below
    draws[4:8] = torch.tensor([0.5, 0.5, 0.0, 0.0])
    up = draws < r - r.floor()
    assert torch.equal(rounded_at_random(r.clone(), draws.clamp(max=1.0 - 2.0**-24)), r.floor() + up)
    assert bool(up.any())
    assert not bool(up[9::3].any())


def test_aligned_keeps_what_begins_with_a_cache_line() -> None:
    x = torch.arange(64.0)
    assert aligned(x).data_ptr() == x.data_ptr()
    part = x[1:]
    assert torch.equal(aligned(part), part)
    assert aligned(part).data_ptr() % 64 == 0
