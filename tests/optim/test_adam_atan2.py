"""Adam-atan2 against its restatement, and what having no eps makes exact."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adam import Adam
from shoal.optim.adam_atan2 import AdamAtan2
from tests.optim.agreement import assert_compiles, bytes_per_entry
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adam_atan2 as restated


@settings(max_examples=15)
@given(
    st.floats(1e-4, 0.1),
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
    st.floats(0, 0.5),
    st.floats(0.5, 2),
    st.floats(0.5, 2),
)
def test_it_goes_the_restated_way(
    lr: float, betas: tuple[float, float], weight_decay: float, a: float, b: float
) -> None:
    options: dict[str, Any] = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "a": a, "b": b}
    follow(
        lambda p: AdamAtan2(p, **options),
        lambda p: restated.AdamAtan2(p, **options),
        missing(quadratic()),
        rates=lambda step: lr / (1 + 0.05 * step),
    )


def test_it_trains_a_network_the_restated_way() -> None:
    follow(lambda p: AdamAtan2(p, lr=0.02), lambda p: restated.AdamAtan2(p, lr=0.02), network(), shapes=NETWORK_SHAPES)


def test_a_power_of_two_on_the_gradient_changes_no_bit() -> None:
    large, small = (nn.Parameter(torch.from_numpy(starts()[0])) for _ in range(2))
    optimizers = AdamAtan2([large], lr=0.02, weight_decay=0.1), AdamAtan2([small], lr=0.02, weight_decay=0.1)
    adam = nn.Parameter(large.detach().clone())
    stalls = Adam([adam], lr=0.02)
    for step in range(60):
        torch_gradients([large], quadratic(((6, 4),), seed=9), step)
        assert large.grad is not None
        small.grad = adam.grad = large.grad * 2.0**-45
        for optimizer in (*optimizers, stalls):
            optimizer.step()
        assert torch.equal(large, small)
    assert (adam - torch.from_numpy(starts()[0])).abs().max() < 1e-3 < (large - adam).abs().max()


def test_a_first_gradient_gives_the_angle_of_its_sign_and_zero_none() -> None:
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    p.grad = torch.tensor([1e-8, -300.0, 0.0], dtype=torch.float64)
    AdamAtan2([p], lr=0.5, a=4 / math.pi).step()
    assert torch.allclose(p, torch.tensor([-0.5, 0.5, 0.0], dtype=torch.float64), rtol=1e-12)


def test_no_step_is_longer_than_half_a_turn() -> None:
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = AdamAtan2([p], lr=0.1, betas=(0.99, 0.0), a=1.5)
    longest = 0.0
    for step in range(30):
        before = float(p.detach())
        p.grad = torch.full((1,), 1e6 if step == 0 else 1e-6, dtype=torch.float64)
        optimizer.step()
        longest = max(longest, abs(float(p.detach()) - before))
    assert 0.999 * 0.1 * 1.5 * math.pi / 2 < longest <= 0.1 * 1.5 * math.pi / 2


def test_state_is_two_buffers() -> None:
    assert bytes_per_entry(AdamAtan2) == 8


def test_stacked_peers_go_the_way_of_separate_ones() -> None:
    assert_stacks(AdamAtan2, {"lr": 0.05, "weight_decay": 0.1, "a": 1.3})


def test_one_compiled_loop_does_the_same() -> None:
    assert_compiles(AdamAtan2, {"lr": 0.01, "weight_decay": 0.1, "b": 1.7})
