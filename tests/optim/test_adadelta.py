"""Adadelta: torch's way, and what makes it independent of the gradient's units."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.optim.adadelta import Adadelta
from tests.optim.agreement import assert_as_torch, assert_compiles, bytes_per_entry, path
from tests.optim.stacking import assert_stacks


@pytest.mark.parametrize(("rho", "eps"), [(0.9, 1e-6), (0.5, 1e-2), (0.0, 1e-4)])
def test_adadelta_is_torchs(rho: float, eps: float) -> None:
    same: dict[str, Any] = {"rho": rho, "eps": eps, "weight_decay": 0.1}
    assert_as_torch(
        lambda p: Adadelta(p, **same),
        lambda p: torch.optim.Adadelta(p, **same),
        rates=lambda step: 1.0 * 0.97**step,
    )


def test_the_defaults_are_torchs() -> None:
    assert_as_torch(lambda p: Adadelta(p), lambda p: torch.optim.Adadelta(p))


@given(st.floats(0, 0.99), st.floats(1e-8, 1e-2), st.floats(-5, 5))
def test_the_first_step_has_a_closed_form(rho: float, eps: float, g: float) -> None:
    values = path(lambda p: Adadelta(p, rho=rho, eps=eps), [0.0], [g])
    assert float(-values[1]) == pytest.approx(eps**0.5 * g / ((1 - rho) * g * g + eps) ** 0.5, rel=1e-9, abs=1e-15)


def test_large_gradients_in_other_units_give_the_same_steps() -> None:
    gradients = [100.0, -300.0, 50.0, 700.0] * 5
    one, other = (path(lambda p: Adadelta(p), [0.0], [unit * g for g in gradients])[-1] for unit in (1.0, 1e4))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0.0)


CASES: list[dict[str, Any]] = [{"lr": 1.0, "weight_decay": 0.1}, {"lr": 0.5, "rho": 0.5, "eps": 1e-3}]


@pytest.mark.parametrize("case", CASES)
def test_stacked_peers_go_the_way_of_separate_ones(case: dict[str, Any]) -> None:
    assert_stacks(Adadelta, case)


@pytest.mark.parametrize("case", CASES)
def test_one_compiled_loop_does_the_same(case: dict[str, Any]) -> None:
    assert_compiles(Adadelta, case)


def test_state_is_two_numbers_an_entry() -> None:
    assert bytes_per_entry(Adadelta) == 8
