"""FAdam against its restatement, and its closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adam import Adam
from shoal.optim.fadam import FAdam
from tests.optim.agreement import bytes_per_entry
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import fadam as restated


@settings(max_examples=12)
@given(
    st.floats(1e-4, 0.1),
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
    st.floats(1e-10, 1e-2),
    st.floats(0, 0.3),
    st.floats(0.3, 3),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_fadam_goes_the_restated_way(
    lr: float, betas: tuple[float, float], eps: float, weight_decay: float, clip: float, power: float
) -> None:
    options: dict[str, Any] = {
        "lr": lr,
        "betas": betas,
        "eps": eps,
        "weight_decay": weight_decay,
        "clip": clip,
        "p": power,
    }
    follow(lambda p: FAdam(p, **options), lambda p: restated.FAdam(p, **options), missing(quadratic()), rtol=1e-7)


def test_fadam_trains_a_network_the_restated_way() -> None:
    follow(lambda p: FAdam(p, lr=0.02), lambda p: restated.FAdam(p, lr=0.02), network(), shapes=NETWORK_SHAPES)


def test_the_first_step_is_a_tenth_of_the_sign() -> None:
    p = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    p.grad = torch.tensor([[4.0, -0.02], [1e3, -7.0]], dtype=torch.float64)
    FAdam([p], lr=0.25, eps=0.0, weight_decay=0.0).step()
    assert torch.allclose(p, -0.025 * p.grad.sign(), rtol=1e-12)


def test_the_fisher_information_is_adams_second_moment_without_bias() -> None:
    ours, theirs = (nn.Parameter(torch.from_numpy(starts()[0])) for _ in range(2))
    fadam, adam = FAdam([ours], betas=(0.9, 0.98)), Adam([theirs], betas=(0.9, 0.98))
    for step in range(40):
        torch_gradients([ours], quadratic(((6, 4),), seed=6), step)
        assert ours.grad is not None
        theirs.grad = ours.grad.clone()
        fadam.step()
        adam.step()
        unbiased = adam.state[theirs]["v"] / (1 - 0.98 ** (step + 1))
        assert torch.allclose(fadam.state[ours]["f"], unbiased, rtol=1e-12)


def test_without_power_clipping_and_decay_it_is_descent_with_an_average() -> None:
    p = nn.Parameter(torch.from_numpy(starts()[0]))
    expected, m = p.detach().clone(), torch.zeros(6, 4, dtype=torch.float64)
    optimizer = FAdam([p], lr=0.05, betas=(0.7, 0.99), eps=0.0, weight_decay=0.0, clip=math.inf, p=0.0)
    for step in range(30):
        torch_gradients([p], quadratic(((6, 4),), seed=7), step)
        assert p.grad is not None
        m = 0.7 * m + 0.3 * p.grad
        expected -= 0.05 * m
        optimizer.step()
        assert torch.allclose(p, expected, rtol=1e-12, atol=1e-12)


def test_a_gradient_of_zeros_moves_nothing_at_first_and_nothing_becomes_nan() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = FAdam([p], lr=0.1, weight_decay=0.1)
    p.grad = torch.zeros(3)
    optimizer.step()
    assert p.tolist() == [1.0, 1.0, 1.0]
    p.grad = torch.tensor([0.0, 1.0, 0.0])
    optimizer.step()
    assert torch.isfinite(p).all()
    assert p[1] != 1.0


def test_one_bad_batch_moves_a_tensor_no_further_than_its_bound() -> None:
    p = nn.Parameter(torch.zeros(100, dtype=torch.float64))
    optimizer = FAdam([p], lr=0.1, betas=(0.0, 0.999), weight_decay=0.0)
    draws = torch.Generator().manual_seed(8)
    for step in range(20):
        before = p.detach().clone()
        p.grad = torch.randn(100, generator=draws, dtype=torch.float64) * (1e4 if step == 15 else 1.0)
        optimizer.step()
        assert float((p - before).detach().square().mean().sqrt()) <= 0.1 * (1 + 1e-12)


def test_state_is_two_buffers() -> None:
    assert bytes_per_entry(FAdam) == 8


def test_stacked_peers_go_the_way_of_separate_ones() -> None:
    assert_stacks(FAdam, {"lr": 0.05, "weight_decay": 0.1})
    assert_stacks(FAdam, {"lr": 0.05, "weight_decay": 0.0, "p": 0.3, "clip": 0.5})


@pytest.mark.parametrize(("name", "value"), [("clip", 0.0), ("p", -1.0)])
def test_what_is_not_allowed_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        FAdam([nn.Parameter(torch.ones(1))], **{name: value})  # type: ignore[arg-type]
