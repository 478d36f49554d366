"""diffGrad: the restated way, and its friction."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.diffgrad import DiffGrad
from tests.optim.agreement import assert_compiles, bytes_per_entry, path
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import diffgrad as restated

rates = st.floats(1e-4, 0.1)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.999))
sizes = st.floats(1e-3, 5.0)


@settings(max_examples=25)
@given(rates, betas, st.floats(1e-8, 1e-2), st.floats(0, 0.5))
def test_diffgrad_goes_the_restated_way(lr: float, betas: tuple[float, float], eps: float, decay: float) -> None:
    same: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": decay}
    follow(lambda p: DiffGrad(p, **same), lambda p: restated.DiffGrad(p, **same), missing(quadratic()), rtol=1e-8)


def test_diffgrad_trains_a_network_the_restated_way() -> None:
    follow(
        lambda p: DiffGrad(p, lr=0.02),
        lambda p: restated.DiffGrad(p, lr=0.02),
        network(),
        shapes=NETWORK_SHAPES,
        rates=lambda step: 0.02 * (0.1 if step > 30 else 1.0),
    )


def adams(gradients: list[float], lr: float) -> list[float]:
    """Adam's steps with eps beside the uncorrected root."""
    m = v = 0.0
    steps = []
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        steps.append(lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (math.sqrt(v) + 1e-8))
    return steps


@given(st.lists(sizes, min_size=1, max_size=20))
def test_steps_are_adams_times_the_sigmoid_of_the_change(gradients: list[float]) -> None:
    ours = (-torch.cat(path(lambda p: DiffGrad(p, lr=0.1), [0.0], gradients)).diff()).tolist()
    before = [0.0, *gradients]
    for t, (step, adam) in enumerate(zip(ours, adams(gradients, 0.1), strict=True)):
        friction = 1 / (1 + math.exp(-abs(before[t] - gradients[t])))
        assert step == pytest.approx(friction * adam, rel=1e-8, abs=1e-12)
        assert 0.5 * (1 - 1e-8) <= step / adam <= 1.0 + 1e-8


@given(sizes)
def test_a_constant_gradient_halves_the_rate_from_the_second_step_on(g: float) -> None:
    ours = (-torch.cat(path(lambda p: DiffGrad(p, lr=0.1), [0.0], [g] * 12)).diff()).tolist()
    assert ours[1:] == pytest.approx(adams([g] * 12, 0.05)[1:], rel=1e-9)


def test_the_gradient_before_is_a_copy() -> None:
    """The next gradient is often written into the same memory."""
    together = path(lambda p: DiffGrad(p, lr=0.1), [1.0], [1.0, -2.0, 0.5])[-1]
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    p.grad = torch.empty_like(p)
    optimizer = DiffGrad([p], lr=0.1)
    for g in (1.0, -2.0, 0.5):
        p.grad.fill_(g)
        optimizer.step()
    assert torch.equal(p.detach(), together)


CASES: list[dict[str, Any]] = [{"lr": 0.05}, {"lr": 0.05, "weight_decay": 0.1, "betas": (0.5, 0.9)}]


@pytest.mark.parametrize("case", CASES)
def test_stacked_peers_go_the_way_of_separate_ones(case: dict[str, Any]) -> None:
    assert_stacks(DiffGrad, case)


@pytest.mark.parametrize("case", CASES)
def test_one_compiled_loop_does_the_same(case: dict[str, Any]) -> None:
    assert_compiles(DiffGrad, case)


def test_state_is_three_numbers_an_entry() -> None:
    assert bytes_per_entry(DiffGrad) == 12
