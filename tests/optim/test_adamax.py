"""AdaMax: the restated way, torch's way, and its bound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.optim.adamax import AdaMax
from tests.optim.agreement import assert_as_torch, assert_compiles, bytes_per_entry, path
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adam as restated

betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999))


@settings(max_examples=20)
@given(st.floats(1e-4, 0.1), betas, st.sampled_from([0.0, 1e-8, 1e-2]))
def test_adamax_goes_the_restated_way(lr: float, betas: tuple[float, float], eps: float) -> None:
    same: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps}
    follow(lambda p: AdaMax(p, **same), lambda p: restated.AdaMax(p, **same), missing(quadratic()))


def test_adamax_trains_a_network_the_restated_way() -> None:
    follow(
        lambda p: AdaMax(p, lr=0.02, eps=0.0),
        lambda p: restated.AdaMax(p, lr=0.02),
        network(),
        shapes=NETWORK_SHAPES,
        rates=lambda step: 0.02 * 0.97**step,
    )


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_adamax_is_torchs(decay: float) -> None:
    assert_as_torch(
        lambda p: AdaMax(p, weight_decay=decay),
        lambda p: torch.optim.Adamax(p, weight_decay=decay),
        rates=lambda step: 0.05 * 0.97**step,
    )


@settings(max_examples=40)
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=30), st.floats(0, 0.95), st.floats(0.96, 0.9999))
def test_no_step_is_above_the_rate(gradients: list[float], beta1: float, beta2: float) -> None:
    """For beta1 < beta2: m / (1 - beta1^t) is an average of gradients, none of which has been forgotten faster."""
    steps = torch.cat(path(lambda p: AdaMax(p, lr=0.1, betas=(beta1, beta2), eps=0.0), [0.0], gradients)).diff()
    bound = 0.1 * max(1.0, (1 - beta1) / (1 - beta1 / beta2))
    assert float(steps.abs().max()) <= bound * (1 + 1e-9)


def test_without_eps_an_entry_stays_until_it_has_seen_a_gradient() -> None:
    gradients = [torch.tensor([0.0, 1.0]), torch.tensor([-2.0, 0.0])]
    values = path(lambda p: AdaMax(p, lr=0.1, eps=0.0), [1.0, 1.0], gradients)
    assert values[1].tolist() == [1.0, pytest.approx(0.9)]
    assert float(values[2][0]) > 1.0


CASES: list[dict[str, Any]] = [{"lr": 0.05, "weight_decay": 0.1}, {"lr": 0.05, "eps": 0.0, "betas": (0.8, 0.9)}]


@pytest.mark.parametrize("case", CASES)
def test_stacked_peers_go_the_way_of_separate_ones(case: dict[str, Any]) -> None:
    assert_stacks(AdaMax, case)


@pytest.mark.parametrize("case", CASES)
def test_one_compiled_loop_does_the_same(case: dict[str, Any]) -> None:
    assert_compiles(AdaMax, case)


def test_state_is_two_numbers_an_entry() -> None:
    assert bytes_per_entry(AdaMax) == 8
