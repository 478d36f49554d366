"""Adagrad: torch's way, and its steps in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.optim.adagrad import Adagrad
from tests.optim.agreement import assert_as_torch, assert_compiles, bytes_per_entry, path
from tests.optim.stacking import assert_stacks


@pytest.mark.parametrize("fall", [0.0, 0.3])
@pytest.mark.parametrize("initial", [0.0, 2.0])
def test_adagrad_is_torchs(fall: float, initial: float) -> None:
    same: dict[str, Any] = {"lr_decay": fall, "initial_accumulator_value": initial, "weight_decay": 0.1}
    assert_as_torch(
        lambda p: Adagrad(p, **same),
        lambda p: torch.optim.Adagrad(p, **same),
        rates=lambda step: 0.3 * 0.97**step,
    )


def test_the_defaults_are_torchs() -> None:
    assert_as_torch(lambda p: Adagrad(p), lambda p: torch.optim.Adagrad(p))


@given(st.floats(0.01, 50), st.integers(1, 40))
def test_a_constant_gradient_steps_by_the_rate_over_the_root_of_time(g: float, steps: int) -> None:
    values = path(lambda p: Adagrad(p, lr=0.1, eps=0.0), [0.0], [g] * steps)
    assert float(-values[-1]) == pytest.approx(0.1 * sum(1 / math.sqrt(t) for t in range(1, steps + 1)), rel=1e-9)


def test_without_eps_an_entry_stays_until_it_has_seen_a_gradient() -> None:
    gradients = [torch.tensor([0.0, 4.0]), torch.tensor([-2.0, 0.0])]
    values = path(lambda p: Adagrad(p, lr=0.1, eps=0.0), [1.0, 1.0], gradients)
    assert torch.stack(values).tolist() == [[1.0, 1.0], [1.0, 0.9], [1.1, 0.9]]


CASES: list[dict[str, Any]] = [
    {"lr": 0.2, "weight_decay": 0.1, "lr_decay": 0.2},
    {"lr": 0.2, "eps": 0.0, "initial_accumulator_value": 0.5},
]


@pytest.mark.parametrize("case", CASES)
def test_stacked_peers_go_the_way_of_separate_ones(case: dict[str, Any]) -> None:
    assert_stacks(Adagrad, case)


@pytest.mark.parametrize("case", CASES)
def test_one_compiled_loop_does_the_same(case: dict[str, Any]) -> None:
    assert_compiles(Adagrad, case)


def test_state_is_one_number_an_entry() -> None:
    assert bytes_per_entry(Adagrad) == 4
