"""AdaBound and AMSBound: the restated way, both ends of the band, and a problem on which Adam fails."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adabound import AdaBound, AMSBound
from shoal.optim.adam import Adam
from tests.optim.agreement import assert_as_torch, assert_compiles, bytes_per_entry, path
from tests.optim.following import NETWORK_SHAPES, Array, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adabound as restated

rates = st.floats(1e-4, 0.1)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.999))
PAIRS: list[tuple[Any, Any]] = [(AdaBound, restated.AdaBound), (AMSBound, restated.AMSBound)]
THEORY: dict[str, Any] = {"bias_correction": False, "sqrt_decay": True}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@settings(max_examples=25)
@given(rates, betas, st.floats(1e-3, 0.5), st.floats(1e-4, 1.0), st.floats(0, 0.3), st.booleans())
def test_bounded_rates_go_the_restated_way(
    ours: Any,
    theirs: Any,
    lr: float,
    betas: tuple[float, float],
    final: float,
    gamma: float,
    decay: float,
    theory: bool,
) -> None:
    same: dict[str, Any] = {"lr": lr, "betas": betas, "final_lr": final, "gamma": gamma, "weight_decay": decay}
    follow(
        lambda p: ours(p, **same, **(THEORY if theory else {})),
        lambda p: theirs(p, **same, theory_form=theory),
        missing(quadratic()),
        rates=lambda step: lr * (0.1 if step > 25 else 1.0),
    )


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_they_train_a_network_the_restated_way(ours: Any, theirs: Any) -> None:
    same: dict[str, Any] = {"lr": 0.02, "final_lr": 0.2, "gamma": 0.05}
    follow(lambda p: ours(p, **same), lambda p: theirs(p, **same), network(), shapes=NETWORK_SHAPES)


@pytest.mark.parametrize("cls", [AdaBound, AMSBound])
def test_a_closed_band_is_sgd_with_an_averaged_momentum(cls: Any) -> None:
    """The first momentum of torch's SGD is the whole gradient, here it is (1 - beta1) of it: a first gradient of 0."""
    noisy = quadratic(seed=2)

    def gradients(ps: Sequence[Array], step: int) -> list[Array | None]:
        return [None if g is None else g * float(step > 0) for g in noisy(ps, step)]

    assert_as_torch(
        lambda p: cls(p, lr=0.01, betas=(0.8, 0.99), final_lr=0.07, gamma=1e14),
        lambda p: torch.optim.SGD(p, lr=0.07, momentum=0.8, dampening=0.8),
        gradients,
    )


def test_an_open_band_is_adam_with_eps_beside_the_uncorrected_root() -> None:
    gradients = [0.3, -2.0, 1.0, 0.7, 0.1] * 6
    ours = path(lambda p: AdaBound(p, lr=0.05, gamma=1e-13), [1.0], gradients)
    x, m, v = 1.0, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x -= 0.05 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (math.sqrt(v) + 1e-8)
        assert float(ours[t]) == pytest.approx(x, rel=1e-12)


@given(st.floats(1e-3, 10.0), st.integers(1, 60), st.floats(1e-3, 1e3))
def test_every_rate_is_in_the_band(gamma: float, steps: int, g: float) -> None:
    """Without momentum the step over the gradient is the rate."""
    made = path(lambda p: AdaBound(p, lr=0.01, betas=(0.0, 0.99), final_lr=0.3, gamma=gamma), [0.0], [g] * steps)
    rate = float(made[-2] - made[-1]) / g
    low, high = 0.3 * (1 - 1 / (gamma * steps + 1)), 0.3 * (1 + 1 / (gamma * steps))
    assert low * (1 - 1e-6) <= rate <= high * (1 + 1e-6)


def test_adam_ends_at_the_worst_point_and_adabound_at_the_best() -> None:
    """Losses 4 x at every third step and -x at the others, on [-1, 1]: the best is -1."""
    ends = {}
    for name, cls, more in (
        ("adam", Adam, {}),
        ("adabound", AdaBound, {"final_lr": 0.2, "gamma": 2e-3, **THEORY}),
        ("amsbound", AMSBound, {"final_lr": 0.2, "gamma": 2e-3, **THEORY}),
    ):
        p = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))
        optimizer: Any = cls([p], lr=0.2, betas=(0.0, 1 / 17), **more)
        for t in range(1, 6001):
            if name == "adam":
                optimizer.param_groups[0]["lr"] = 0.2 / math.sqrt(t)
            p.grad = torch.tensor([4.0 if t % 3 == 1 else -1.0], dtype=torch.float64)
            optimizer.step()
            p.data.clamp_(-1.0, 1.0)
        ends[name] = float(p.detach())
    assert ends["adam"] > 0.9
    assert ends["adabound"] < -0.9
    assert ends["amsbound"] < -0.9


def test_the_band_follows_the_schedule_also_after_the_state_was_saved() -> None:
    def run(interrupted: bool) -> float:
        p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        optimizer = AdaBound([p], lr=0.1, betas=(0.0, 0.9), final_lr=0.4, gamma=1e12)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        for step in range(6):
            if interrupted and step == 3:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = AdaBound([p], lr=7.0)
                optimizer.load_state_dict(state)
                scheduler.optimizer = optimizer
            p.grad = torch.ones_like(p)
            optimizer.step()
            scheduler.step()
        return float(p.detach())

    assert run(interrupted=False) == pytest.approx(1.0 - 2 * (0.4 + 0.2 + 0.1), rel=1e-9)
    assert run(interrupted=True) == run(interrupted=False)


def test_a_rate_of_zero_at_first_has_no_band() -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match="lr"):
        AdaBound([p], lr=0.0).step()
    AdaBound([p], lr=0.0, base_lr=0.1).step()
    assert p.tolist() == [1.0, 1.0]


CASES: list[dict[str, Any]] = [
    {"lr": 0.05, "gamma": 0.05, "base_lr": 0.05, "weight_decay": 0.1},
    {"lr": 0.05, "gamma": 0.05, "base_lr": 0.02, **THEORY},
]


@pytest.mark.parametrize("cls", [AdaBound, AMSBound])
@pytest.mark.parametrize("case", CASES)
def test_stacked_peers_go_the_way_of_separate_ones(cls: Any, case: dict[str, Any]) -> None:
    assert_stacks(cls, case)


@pytest.mark.parametrize("cls", [AdaBound, AMSBound])
@pytest.mark.parametrize("case", CASES)
def test_one_compiled_loop_does_the_same(cls: Any, case: dict[str, Any]) -> None:
    assert_compiles(cls, case)


def test_state_is_two_numbers_an_entry_and_three_with_a_maximum() -> None:
    assert bytes_per_entry(AdaBound) == 8
    assert bytes_per_entry(AMSBound) == 12
