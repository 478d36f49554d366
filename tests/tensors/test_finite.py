"""What is remembered of a tensor never outlives a change that torch counts."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from shoal.tensors.finite import all_finite, remember_finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64])
def test_one_bad_element_is_found(bad: float, dtype: torch.dtype) -> None:
    x = torch.zeros(9, dtype=dtype)
    assert all_finite(x)
    x[4] = bad
    assert not all_finite(x)
    x[4] = 1.0
    assert all_finite(x)


def test_finite_numbers_whose_sum_is_not_are_finite() -> None:
    assert all_finite(torch.full((4,), torch.finfo(torch.float32).max))
    assert all_finite(torch.arange(3))
    with torch.inference_mode():
        x = torch.zeros(3)
        assert all_finite(x)
        x[0] = math.nan
        assert not all_finite(x)


def test_rows_of_a_stack_are_told_apart() -> None:
    stacked = torch.zeros(4, 3)
    stacked[1, 2] = math.inf
    stacked[3] = torch.finfo(torch.float32).max  # its sum overflows
    rows = [row.data for row in stacked.unbind(0)]
    remember_finite(stacked, rows)
    assert [all_finite(row) for row in rows] == [True, False, True, True]
    rows[0][0] = math.nan
    assert not all_finite(rows[0])


def test_a_copy_is_looked_at_anew() -> None:
    x = torch.zeros(3)
    assert all_finite(x)
    x[0] = math.nan
    assert not all_finite(copy.deepcopy(x))  # a copy takes the attributes along, and counts its changes from 0
    assert not all_finite(x.clone())
