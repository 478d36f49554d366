"""NAdam: torch's way, and its momentum's product in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.optim.nadam import NAdam, momentum_product
from tests.optim.agreement import assert_as_torch, assert_compiles, bytes_per_entry, path
from tests.optim.stacking import assert_stacks


@pytest.fixture
def double() -> Iterator[None]:
    """torch's NAdam keeps its product of momenta in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(("betas", "psi"), [((0.9, 0.999), 4e-3), ((0.6, 0.9), 0.3), ((0.0, 0.5), 0.0)])
def test_nadam_is_torchs(decoupled: bool, betas: tuple[float, float], psi: float) -> None:
    same: dict[str, Any] = {"betas": betas, "momentum_decay": psi, "weight_decay": 0.1}
    same["decoupled_weight_decay"] = decoupled
    assert_as_torch(
        lambda p: NAdam(p, **same),
        lambda p: torch.optim.NAdam(p, **same),
        rates=lambda step: 0.03 * 0.97**step,
        steps=120,
    )


@given(st.floats(0, 0.999), st.floats(0, 2), st.integers(0, 400))
def test_the_series_is_the_product(beta1: float, psi: float, t: int) -> None:
    own = math.log(beta1) if beta1 else -math.inf  # apart, since the product of the two may be no number above 0
    logs = [own + math.log1p(-0.5 * 0.96 ** (i * psi)) for i in range(1, t + 1)]
    expected = math.exp(math.fsum(logs))
    assert momentum_product(beta1, psi, float(t)) == pytest.approx(expected, rel=1e-11, abs=1e-300)


@given(st.floats(0, 0.99), st.floats(0, 1), st.floats(0.1, 5))
def test_the_first_step_has_a_closed_form(beta1: float, psi: float, g: float) -> None:
    step = -float(path(lambda p: NAdam(p, lr=0.1, betas=(beta1, 0.9), eps=0.0, momentum_decay=psi), [0.0], [g])[1])
    mu1, mu2 = (beta1 * (1 - 0.5 * 0.96 ** (t * psi)) for t in (1, 2))
    assert step == pytest.approx(0.1 * (1 + mu2 * (1 - beta1) / (1 - mu1 * mu2)), rel=1e-9)


CASES: list[dict[str, Any]] = [
    {"lr": 0.05, "weight_decay": 0.1},
    {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.2},
]


@pytest.mark.parametrize("case", CASES)
def test_stacked_peers_go_the_way_of_separate_ones(case: dict[str, Any]) -> None:
    assert_stacks(NAdam, case)


@pytest.mark.parametrize("case", CASES)
def test_one_compiled_loop_does_the_same(case: dict[str, Any]) -> None:
    assert_compiles(NAdam, case)


def test_state_is_two_numbers_an_entry() -> None:
    assert bytes_per_entry(NAdam) == 8
