"""AdaFactor against its restatement, torch's where they agree, and its closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adafactor import AdaFactor
from tests.optim.agreement import assert_as_torch, bytes_per_entry
from tests.optim.following import NETWORK_SHAPES, SHAPES, follow, missing, network, quadratic, starts
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adafactor as restated


@settings(max_examples=15)
@given(
    st.floats(1e-4, 0.2),
    st.floats(-1, -0.3),
    st.tuples(st.floats(1e-30, 1e-3), st.floats(1e-4, 0.1)),
    st.floats(0.5, 3),
    st.floats(0, 0.5),
    st.booleans(),
)
def test_it_goes_the_restated_way(
    lr: float, beta2_decay: float, eps: tuple[float, float], d: float, weight_decay: float, relative_step: bool
) -> None:
    options: dict[str, Any] = {
        "lr": lr,
        "beta2_decay": beta2_decay,
        "eps": eps,
        "d": d,
        "weight_decay": weight_decay,
        "relative_step": relative_step,
    }
    follow(
        lambda p: AdaFactor(p, **options),
        lambda p: restated.Adafactor(p, **options),
        missing(quadratic()),
        rates=lambda step: lr / (1 + 0.05 * step),
        rtol=1e-8,
    )


def test_it_trains_a_network_the_restated_way() -> None:
    follow(lambda p: AdaFactor(p, lr=0.1), lambda p: restated.Adafactor(p, lr=0.1), network(), shapes=NETWORK_SHAPES)


def test_it_is_torchs_where_squares_are_far_above_what_keeps_them_from_zero() -> None:
    options: dict[str, Any] = {"lr": 0.07, "beta2_decay": -0.7, "d": 1.3, "weight_decay": 0.1}
    assert_as_torch(
        lambda p: AdaFactor(p, **options, eps=(0.0, 2e-3)),
        lambda p: torch.optim.Adafactor(p, **options, eps=(0.0, 2e-3)),
        rates=lambda step: 0.07 / (1 + 0.1 * step),
    )
    assert_as_torch(
        lambda p: AdaFactor(p, weight_decay=0.2),
        lambda p: torch.optim.Adafactor(p, weight_decay=0.2),
    )


def test_the_first_step_is_the_sign_where_squares_are_rows_times_columns() -> None:
    p = nn.Parameter(torch.full((4, 3), 2.0, dtype=torch.float64))
    signs = torch.tensor([[1.0, -1, 1], [-1, -1, 1], [1, 1, 1], [-1, 1, -1]], dtype=torch.float64)
    rows, columns = torch.tensor([1e-3, 1, 20, 7]), torch.tensor([5, 0.01, 3])
    p.grad = signs * rows.double()[:, None] * columns.double()
    AdaFactor([p], lr=0.25).step()
    assert torch.allclose(p, 2.0 - 2.0 * 0.25 * signs, rtol=1e-12)  # the size of p times the rate


@given(st.floats(0.1, 3), st.integers(0, 1000))
def test_no_step_is_longer_than_its_bound(d: float, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    p = nn.Parameter(torch.randn(5, 7, generator=draws, dtype=torch.float64))
    optimizer = AdaFactor([p], lr=0.3, d=d)
    for t in range(1, 6):
        before = p.detach().clone()
        scale = 10 ** float(4 * torch.rand((), generator=draws))
        p.grad = scale * torch.randn(5, 7, generator=draws, dtype=torch.float64)
        optimizer.step()
        rate = max(1e-3, float(before.square().mean().sqrt())) * min(0.3, 1 / math.sqrt(t))
        assert float((p.detach() - before).square().mean().sqrt()) <= rate * d * (1 + 1e-12)


def test_a_matrix_has_a_row_and_a_column_of_state() -> None:
    assert bytes_per_entry(AdaFactor) == 4 * (40 + 25) / 1000
    p = nn.Parameter(torch.ones(2, 3, 5, 7))
    p.grad = torch.ones_like(p)
    optimizer = AdaFactor([p])
    optimizer.step()
    assert optimizer.state_bytes() == 4 * 6 * (5 + 7)


def test_a_gradient_of_zeros_does_no_harm_in_float32() -> None:
    for start in starts(SHAPES):
        p = nn.Parameter(torch.from_numpy(start).float())
        before = p.detach().clone()
        p.grad = torch.zeros_like(p)
        AdaFactor([p]).step()
        assert torch.equal(p, before)


@pytest.mark.parametrize("relative_step", [False, True])
def test_stacked_peers_go_the_way_of_separate_ones(relative_step: bool) -> None:
    assert_stacks(AdaFactor, {"lr": 0.05, "weight_decay": 0.1, "relative_step": relative_step})


@pytest.mark.parametrize(("name", "value"), [("d", 0.0), ("eps", (1e-30,)), ("beta2_decay", 0.5)])
def test_what_is_not_allowed_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        AdaFactor([nn.Parameter(torch.ones(1))], **{name: value})
