"""Lion against its restatement, and what its sign makes exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.lion import Lion
from tests.optim.agreement import assert_compiles, bytes_per_entry
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import lion as restated

fractions = st.floats(0, 0.99)


@settings(max_examples=15)
@given(st.floats(1e-5, 0.02), st.tuples(fractions, fractions), st.floats(0, 2))
def test_lion_goes_the_restated_way(lr: float, betas: tuple[float, float], weight_decay: float) -> None:
    options = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
    follow(
        lambda p: Lion(p, **options),  # type: ignore[arg-type]
        lambda p: restated.Lion(p, **options),  # type: ignore[arg-type]
        missing(quadratic()),
        rates=lambda step: lr / (1 + 0.1 * step),
    )


def test_lion_trains_a_network_the_restated_way() -> None:
    follow(lambda p: Lion(p, lr=3e-3), lambda p: restated.Lion(p, lr=3e-3), network(), shapes=NETWORK_SHAPES)


def test_every_entry_moves_by_the_rate_and_none_without_a_gradient() -> None:
    p = nn.Parameter(torch.tensor([1.0, -2.0, 3.0, 4.0], dtype=torch.float64))
    optimizer = Lion([p], lr=0.125)
    for step in range(20):
        before = p.detach().clone()
        p.grad = torch.tensor([np.sin(step + 1.5), 1e-9, -(1e9**step), 0.0], dtype=torch.float64)
        optimizer.step()
        assert (p - before).abs().tolist() == [0.125, 0.125, 0.125, 0.0]


def test_without_averages_it_is_sign_descent() -> None:
    p = nn.Parameter(torch.from_numpy(starts()[0]))
    expected = p.detach().clone()
    optimizer = Lion([p], lr=0.01, betas=(0.0, 0.0))
    for step in range(10):
        torch_gradients([p], quadratic(((6, 4),), seed=3), step)
        assert p.grad is not None
        expected -= 0.01 * p.grad.sign()
        optimizer.step()
        assert torch.equal(p, expected)


def test_the_scale_of_the_gradient_does_not_matter() -> None:
    small, large = (nn.Parameter(torch.from_numpy(starts()[0])) for _ in range(2))
    optimizers = Lion([small], lr=0.01, weight_decay=0.3), Lion([large], lr=0.01, weight_decay=0.3)
    for step in range(30):
        torch_gradients([small], quadratic(((6, 4),), seed=4), step)
        assert small.grad is not None
        large.grad = small.grad * 2.0**40
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(small, large)


def test_state_is_one_buffer() -> None:
    assert bytes_per_entry(Lion) == 4


def test_stacked_peers_go_the_way_of_separate_ones() -> None:
    assert_stacks(Lion, {"lr": 0.01, "weight_decay": 0.1})


def test_one_compiled_loop_does_the_same() -> None:
    assert_compiles(Lion, {"lr": 0.01, "weight_decay": 0.1})


@pytest.mark.parametrize("betas", [(1.0, 0.5), (0.5,), (-0.1, 0.5)])
def test_betas_that_are_not_fractions_are_refused(betas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="betas"):
        Lion([nn.Parameter(torch.ones(1))], betas=betas)  # type: ignore[arg-type]
