"""LaProp: the restated way also under schedules, its limits, and its stability."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adam import Adam
from shoal.optim.core import Param
from shoal.optim.laprop import LaProp
from tests.optim.agreement import assert_as_torch, assert_compiles, bytes_per_entry, path
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic, starts
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import laprop as restated

rates = st.floats(1e-4, 0.1)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.999))


@settings(max_examples=30)
@given(rates, betas, st.floats(1e-8, 1e-2), st.floats(0, 0.1), st.booleans())
def test_laprop_goes_the_restated_way(
    lr: float, betas: tuple[float, float], eps: float, decay: float, amsgrad: bool
) -> None:
    same: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": decay, "amsgrad": amsgrad}
    follow(lambda p: LaProp(p, **same), lambda p: restated.LaProp(p, **same), missing(quadratic()), rtol=1e-8)


@settings(max_examples=20)
@given(rates, st.floats(0, 0.99), st.floats(0.5, 0.999), st.booleans())
def test_centered_laprop_goes_the_restated_way(lr: float, mu: float, nu: float, amsgrad: bool) -> None:
    """The difference of two averages magnifies rounding, without an adaptivity to speak of without limit."""
    same: dict[str, Any] = {"lr": lr, "betas": (mu, nu), "eps": 1e-3, "centered": True, "amsgrad": amsgrad}
    follow(lambda p: LaProp(p, **same), lambda p: restated.LaProp(p, **same), missing(quadratic()), rtol=1e-8)


@settings(max_examples=15)
@given(st.lists(st.sampled_from([0.0]) | st.floats(1e-12, 0.2), min_size=60, max_size=60), st.floats(0.0, 0.95))
def test_each_gradient_keeps_the_rate_it_came_with(rates: list[float], mu: float) -> None:
    """Parameters that miss steps have histories of rates of their own."""
    same: dict[str, Any] = {"lr": 0.1, "betas": (mu, 0.99), "weight_decay": 0.01}
    follow(
        lambda p: LaProp(p, **same),
        lambda p: restated.LaProp(p, **same),
        missing(quadratic()),
        rates=lambda step: 0.0 if step in (0, 1, 2, 17) else rates[step],
    )


def test_laprop_trains_a_network_the_restated_way() -> None:
    follow(lambda p: LaProp(p, lr=0.01), lambda p: restated.LaProp(p, lr=0.01), network(), shapes=NETWORK_SHAPES)


def test_steps_by_a_rule_keep_the_rates_too() -> None:
    shapes, gradients = ((4, 3), (5,)), quadratic(((4, 3), (5,)), seed=4)
    ours = [torch.from_numpy(p.copy()) for p in starts(shapes)]
    theirs = restated.LaProp(starts(shapes), lr=0.1)
    rule = LaProp.rule(lr=0.1)
    params = [Param(str(i), shape) for i, shape in enumerate(shapes)]
    memory = rule.memory({str(i): p for i, p in enumerate(ours)})
    for step in range(50):
        theirs.lr = 0.1 * (step % 5)
        current = gradients(theirs.params, step)
        tensors = [torch.from_numpy(g) for g in current if g is not None]
        rule.step(params, ours, tensors, rule.views(memory, params), float(step + 1), theirs.lr)
        theirs.step(current)
        for p, expected in zip(ours, theirs.params, strict=True):
            torch.testing.assert_close(p, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_rates_survive_saving() -> None:
    def run(interrupted: bool) -> torch.Tensor:
        p = nn.Parameter(torch.tensor([1.0, -1.0], dtype=torch.float64))
        optimizer = LaProp([p], lr=0.1)
        for step in range(8):
            if interrupted and step == 4:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = LaProp([p], lr=0.3)
                optimizer.load_state_dict(state)
            optimizer.param_groups[0]["lr"] = 0.1 * (1 + step)
            p.grad = p.detach() - step
            optimizer.step()
        return p.detach()

    assert torch.equal(run(interrupted=True), run(interrupted=False))


@pytest.mark.parametrize("nu", [0.5, 0.99])
def test_without_momentum_it_is_adam_without_momentum(nu: float) -> None:
    assert_as_torch(
        lambda p: LaProp(p, lr=0.03, betas=(0.0, nu), eps=1e-8),
        lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.0, nu)),
        rates=lambda step: 0.03 * 0.95**step,
    )


@given(st.floats(0, 0.95), st.lists(st.floats(-3, 3).filter(lambda g: abs(g) > 1e-3), min_size=1, max_size=20))
def test_without_adaptivity_it_averages_signs(mu: float, gradients: list[float]) -> None:
    values = path(lambda p: LaProp(p, lr=0.1, betas=(mu, 0.0)), [0.0], gradients)
    x, m = 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        m = mu * m + (1 - mu) * math.copysign(1.0, g)
        x -= 0.1 * m / (1 - mu**t)
        assert float(values[t]) == pytest.approx(x, rel=1e-9, abs=1e-11)


@settings(max_examples=40)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.floats(0, 0.99), st.floats(0, 0.99))
def test_steps_are_bounded_whatever_the_momentum(gradients: list[float], mu: float, nu: float) -> None:
    steps = torch.cat(path(lambda p: LaProp(p, lr=0.1, betas=(mu, nu)), [0.0], gradients)).diff()
    assert float(steps.abs().max()) <= 0.1 / math.sqrt(1 - nu) * (1 + 1e-9)


def test_after_a_spike_laprop_forgets_by_its_momentum_where_adam_grows() -> None:
    """mu > sqrt(nu): the spike leaves Adam's denominator before it leaves its momentum."""
    spike, mu, nu, lr = [1.0] + [0.0] * 40, 0.8, 0.4, 0.1
    ours = torch.cat(path(lambda p: LaProp(p, lr=lr, betas=(mu, nu)), [0.0], spike)).diff().abs()
    adam = torch.cat(path(lambda p: Adam(p, lr=lr, betas=(mu, nu), eps=1e-30), [0.0], spike)).diff().abs()
    corrected = ours * torch.tensor([1 - mu**t for t in range(1, 42)], dtype=torch.float64)
    torch.testing.assert_close(corrected[1:] / corrected[:-1], torch.full((40,), mu, dtype=torch.float64))
    assert float(adam[40] / adam[20]) == pytest.approx((mu / math.sqrt(nu)) ** 20, rel=0.1)
    assert float(adam[40]) > 100.0 > 1e3 * float(ours[40])


def test_the_decay_comes_after_the_step_and_is_not_multiplied_by_the_rate() -> None:
    for lr in (0.5, 0.005):
        values = path(lambda p, lr=lr: LaProp(p, lr=lr, weight_decay=0.25), [1.0], [3.0])  # type: ignore[misc]
        assert float(values[1]) == pytest.approx(0.75 * (1.0 - lr), rel=1e-12)


def test_centered_divides_by_the_spread_after_ten_steps() -> None:
    """A large constant with a small alternating part: the spread is the small part's."""
    gradients = [10.0 + (-1.0) ** t for t in range(300)]
    plain, centered = (
        torch.cat(path(lambda p, c=c: LaProp(p, lr=0.1, betas=(0.0, 0.9), centered=c), [0.0], gradients)).diff()  # type: ignore[misc]
        for c in (False, True)
    )
    assert torch.equal(plain[:10], centered[:10])
    assert float(plain[-1].abs()) == pytest.approx(0.1, rel=0.15)
    assert float(centered[-1].abs()) == pytest.approx(1.0, rel=0.15)


CASES: list[dict[str, Any]] = [
    {"lr": 0.05, "weight_decay": 0.1},
    {"lr": 0.05, "amsgrad": True, "centered": True},
    {"lr": 0.05, "centered": True, "eps": 1e-6},
]


@pytest.mark.parametrize("case", CASES)
def test_stacked_peers_go_the_way_of_separate_ones(case: dict[str, Any]) -> None:
    assert_stacks(LaProp, case, steps=12)


@pytest.mark.parametrize("case", CASES)
def test_one_compiled_loop_does_the_same(case: dict[str, Any]) -> None:
    assert_compiles(LaProp, case)


def test_state_is_two_numbers_an_entry_and_one_for_each_option() -> None:
    assert bytes_per_entry(LaProp) == 8
    assert bytes_per_entry(LaProp, {"amsgrad": True}) == 12
    assert bytes_per_entry(LaProp, {"amsgrad": True, "centered": True}) == 16
