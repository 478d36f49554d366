"""EXAdam: the restated way, its first step and its limit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.optim.exadam import EXAdam
from tests.optim.agreement import assert_compiles, bytes_per_entry, path
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import exadam as restated

rates = st.floats(1e-4, 0.1)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.999))


@settings(max_examples=40)
@given(rates, betas, st.floats(1e-8, 1e-2), st.floats(0, 0.5), st.booleans())
def test_exadam_goes_the_restated_way(
    lr: float, betas: tuple[float, float], eps: float, decay: float, dynamic: bool
) -> None:
    same: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": decay, "dynamic_step_size": dynamic}
    follow(lambda p: EXAdam(p, **same), lambda p: restated.EXAdam(p, **same), missing(quadratic()))


def test_exadam_trains_a_network_the_restated_way() -> None:
    follow(
        lambda p: EXAdam(p, lr=0.005),
        lambda p: restated.EXAdam(p, lr=0.005),
        network(),
        shapes=NETWORK_SHAPES,
        rates=lambda step: 0.005 * 0.97**step,
    )


@given(st.floats(0, 0.95), st.floats(0.5, 0.999), st.floats(0.3, 9.0), st.booleans())
def test_the_first_step_has_a_closed_form(beta1: float, beta2: float, g: float, dynamic: bool) -> None:
    """m^ = g and v^ = g^2, both times their coupled factors, and the gradient over 1 - beta1."""
    make = lambda p: EXAdam(p, lr=0.1, betas=(beta1, beta2), eps=1e-16, dynamic_step_size=dynamic)  # noqa: E731
    step = -float(path(make, [0.0], [g])[1])
    factor = (1 + 1 / (1 - beta1)) * (1 + beta2) / math.sqrt(1 + beta1)
    assert step == pytest.approx(0.1 * factor * (math.log(2.0) if dynamic else 1.0), rel=1e-6)


@pytest.mark.parametrize("dynamic", [False, True])
def test_under_a_constant_gradient_steps_tend_to_twice_the_rate(dynamic: bool) -> None:
    make = lambda p: EXAdam(p, lr=0.1, betas=(0.8, 0.9), dynamic_step_size=dynamic)  # noqa: E731
    values = path(make, [0.0], [0.7] * 400)
    growth = 0.5 * math.log(2 * 401) if dynamic else 1.0
    assert float(values[-2] - values[-1]) == pytest.approx(0.2 * growth, rel=1e-6)


def test_tiny_gradients_switch_the_coupling_off() -> None:
    """With v and m^2 far below eps both factors are 1, and eps is all of the denominator."""
    g, beta1, beta2, eps = 1e-7, 0.9, 0.99, 1e-3
    step = -float(path(lambda p: EXAdam(p, lr=0.1, betas=(beta1, beta2), eps=eps), [0.0], [g])[1])
    assert step == pytest.approx(0.1 * (g + g / (1 - beta1)) / eps, rel=1e-3)


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_decay_is_by_the_plain_rate(dynamic: bool) -> None:
    values = path(lambda p: EXAdam(p, lr=0.1, weight_decay=0.3, dynamic_step_size=dynamic), [2.0], [0.0] * 3)
    torch.testing.assert_close(torch.cat(values), 2.0 * 0.97 ** torch.arange(4, dtype=torch.float64))


CASES: list[dict[str, Any]] = [{"lr": 0.02, "weight_decay": 0.1}, {"lr": 0.02, "dynamic_step_size": True}]


@pytest.mark.parametrize("case", CASES)
def test_stacked_peers_go_the_way_of_separate_ones(case: dict[str, Any]) -> None:
    assert_stacks(EXAdam, case)


@pytest.mark.parametrize("case", CASES)
def test_one_compiled_loop_does_the_same(case: dict[str, Any]) -> None:
    assert_compiles(EXAdam, case)


def test_state_is_two_numbers_an_entry() -> None:
    assert bytes_per_entry(EXAdam) == 8
