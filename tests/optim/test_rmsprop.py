"""RMSProp: torch's way in all its forms, and that of an analysis, restated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shoal.optim.rmsprop import RMSProp, stationary
from tests.optim.agreement import assert_as_torch, assert_compiles, bytes_per_entry, path
from tests.optim.following import follow, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import generalized_smooth as restated


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


# -- with eps below the root -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta2", "zeta", "v0"), [(0.9, 1e-3, 1.0), (0.99, 1e-8, 1e-4), (0.5, 0.3, 0.0)])
def test_with_eps_below_the_root_it_is_the_restated_one(beta2: float, zeta: float, v0: float) -> None:
    follow(
        lambda p: RMSProp(p, lr=0.03, alpha=beta2, eps=zeta, eps_in_root=True, v0=v0),
        lambda p: restated.RMSProp(p, lr=0.03, beta2=beta2, zeta=zeta, v0=v0),
        quadratic(seed=6),
    )


def test_centered_with_eps_below_the_root_divides_by_the_root_of_the_variance() -> None:
    values = path(lambda p: RMSProp(p, lr=1.0, alpha=0.5, eps=0.25, centered=True, eps_in_root=True), [0.0], [2.0])
    assert float(values[-2] - values[-1]) == pytest.approx(2.0 / (2.0 - 1.0 + 0.25) ** 0.5)


def test_stacked_peers_go_their_own_ways_with_eps_below_the_root() -> None:
    assert_stacks(RMSProp, {"eps": 0.01, "eps_in_root": True, "v0": 0.5, "momentum": 0.5})


def test_the_form_with_eps_below_the_root_compiles() -> None:
    assert_compiles(RMSProp, {"eps": 0.01, "eps_in_root": True, "v0": 0.5})


@given(st.floats(0.05, 1.0), st.floats(0.1, 2.0), st.floats(0.1, 0.9), st.floats(1.0, 50.0))
def test_the_scaling_rule_is_the_restated_one(epsilon: float, a: float, b: float, c: float) -> None:
    found = stationary(epsilon, lr=a, decay=b, steps=c)
    lr, beta2, steps = restated.scaling(epsilon, a, b, c)
    assert (found.lr, found.beta2) == pytest.approx((lr, beta2))
    assert steps <= found.steps <= steps + 1  # as many as are needed, and not the nearest number


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0.0}, "epsilon: got 0.0; a finite number > 0"),
        ({"epsilon": 0.1, "steps": float("inf")}, "steps: got inf"),
        ({"epsilon": 2.0}, "epsilon: got 2.0; at most 1.41 is allowed with decay = 0.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stationary(**arguments)
