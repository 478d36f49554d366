"""RMSProp: torch's way in all its forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shoal.optim.rmsprop import RMSProp
from tests.optim.agreement import assert_as_torch, assert_compiles, bytes_per_entry, path
from tests.optim.stacking import assert_stacks


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_rmsprop_is_torchs(centered: bool, momentum: float, decay: float) -> None:
    same: dict[str, Any] = {"alpha": 0.95, "centered": centered, "momentum": momentum, "weight_decay": decay}
    assert_as_torch(
        lambda p: RMSProp(p, eps=1e-3, **same),
        lambda p: torch.optim.RMSprop(p, eps=1e-3, **same),
        rates=lambda step: 0.02 * 0.97**step,
    )


def test_the_defaults_are_torchs() -> None:
    assert_as_torch(lambda p: RMSProp(p), lambda p: torch.optim.RMSprop(p))


@given(st.floats(0, 0.99), st.floats(0.01, 5), st.integers(1, 30))
def test_a_constant_gradient_is_divided_by_what_the_mean_has_of_it(alpha: float, g: float, steps: int) -> None:
    values = path(lambda p: RMSProp(p, lr=0.1, alpha=alpha, eps=0.0), [0.0], [g] * steps)
    assert float(values[-2] - values[-1]) == pytest.approx(0.1 / (1 - alpha**steps) ** 0.5, rel=1e-9)


def test_a_spread_that_rounding_makes_negative_is_zero() -> None:
    """A constant gradient has none in the end; torch's root of the difference is a NaN then."""
    p = nn.Parameter(torch.zeros(300))
    optimizer = RMSProp([p], lr=1e-6, alpha=0.5, eps=1e-2, centered=True)
    for _ in range(60):
        p.grad = torch.linspace(0.1, 3.0, 300)
        optimizer.step()
    assert bool(torch.isfinite(p).all())


CASES: list[dict[str, Any]] = [
    {"lr": 0.02, "weight_decay": 0.1},
    {"lr": 0.02, "centered": True, "momentum": 0.7, "eps": 1e-3},
]


@pytest.mark.parametrize("case", CASES)
def test_stacked_peers_go_the_way_of_separate_ones(case: dict[str, Any]) -> None:
    assert_stacks(RMSProp, case)


@pytest.mark.parametrize("case", CASES)
def test_one_compiled_loop_does_the_same(case: dict[str, Any]) -> None:
    assert_compiles(RMSProp, case)


def test_state_is_one_number_an_entry_and_one_for_each_option() -> None:
    assert bytes_per_entry(RMSProp) == 4
    assert bytes_per_entry(RMSProp, {"centered": True}) == 8
    assert bytes_per_entry(RMSProp, {"centered": True, "momentum": 0.5}) == 12


@pytest.mark.parametrize("alpha", [1.0, -0.1])
def test_what_makes_no_sense_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        RMSProp([nn.Parameter(torch.zeros(2))], alpha=alpha)
