"""Adam with critical momenta against its restatement, its buffer, and Adam where the two are one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adam import Adam
from shoal.optim.adam_cm import AdamCM
from tests.optim.agreement import bytes_per_entry
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adam_cm as restated


@settings(max_examples=15)
@given(
    st.floats(1e-4, 0.05),
    st.tuples(st.floats(0, 0.95), st.floats(0, 0.9999)),
    st.integers(0, 7),
    st.floats(0, 1),
    st.booleans(),
    st.booleans(),
    st.floats(0, 0.3),
)
def test_it_goes_the_restated_way(
    lr: float,
    betas: tuple[float, float],
    capacity: int,
    decay: float,
    synced: bool,
    gradient_first: bool,
    weight_decay: float,
) -> None:
    options: dict[str, Any] = {
        "lr": lr,
        "betas": betas,
        "capacity": capacity,
        "decay": decay,
        "synced": synced,
        "gradient_first": gradient_first and capacity > 0,
        "weight_decay": weight_decay,
    }
    follow(
        lambda p: AdamCM(p, **options),
        lambda p: restated.AdamCM(p, **options),
        missing(quadratic()),
        rates=lambda step: lr / (1 + 0.05 * step),
        rtol=1e-8,
    )


@pytest.mark.parametrize("synced", [False, True])
def test_it_trains_a_network_the_restated_way(synced: bool) -> None:
    follow(
        lambda p: AdamCM(p, lr=0.003, synced=synced),
        lambda p: restated.AdamCM(p, lr=0.003, synced=synced),
        network(),
        shapes=NETWORK_SHAPES,
    )


def test_without_buffer_and_momentum_it_is_adam() -> None:
    ours, theirs = ([nn.Parameter(torch.from_numpy(p)) for p in starts()] for _ in range(2))
    optimizers = AdamCM(ours, lr=0.02, betas=(0.0, 0.97), capacity=0), Adam(theirs, lr=0.02, betas=(0.0, 0.97))
    for step in range(30):
        torch_gradients(theirs, quadratic(seed=4), step)
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad
        for optimizer in optimizers:
            optimizer.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_the_buffer_keeps_copies_of_the_worthiest_momenta_and_priorities_decay() -> None:
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = AdamCM([p], betas=(0.0, 0.9), capacity=3, decay=0.5)  # beta1 = 0: momenta are gradients
    kept = []
    for g in (4.0, -2.0, 1.0, 0.1, 3.0, -0.45):
        p.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        state = optimizer.state[p]
        kept.append((state["momenta"].flatten().tolist(), state["priorities"].tolist()))
    assert kept == [
        ([4.0, 0.0, 0.0], [2.0, -1.0, -1.0]),
        ([4.0, -2.0, 0.0], [1.0, 1.0, -1.0]),
        ([4.0, -2.0, 1.0], [0.5, 0.5, 0.5]),
        ([4.0, -2.0, 1.0], [0.25, 0.25, 0.25]),  # 0.1 is worth less than any
        ([3.0, -2.0, 1.0], [1.5, 0.125, 0.125]),  # the oldest place of equal ones
        ([3.0, -0.45, 1.0], [0.75, 0.225, 0.0625]),
    ]


def test_the_first_step_is_one_over_one_minus_beta1_long_or_none() -> None:
    for gradient_first, expected in ((False, [-0.1, 0.1]), (True, [0.0, 0.0])):
        p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        p.grad = torch.tensor([5.0, -0.5], dtype=torch.float64)
        optimizer = AdamCM([p], lr=0.02, betas=(0.8, 0.999), eps=1e-12, gradient_first=gradient_first)
        optimizer.step()
        assert torch.allclose(p, torch.tensor(expected, dtype=torch.float64), rtol=1e-9)
    assert optimizer.state[p]["momenta"][0].tolist() == [5.0, -0.5]


def test_synced_priorities_are_one_number_for_all_tensors() -> None:
    ps = [nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (4, 9)]
    groups: list[dict[str, Any]] = [{"params": ps[:1]}, {"params": ps[1:], "lr": 0.5}]
    optimizer = AdamCM(groups, decay=1.0)
    for p in ps:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [optimizer.state[p]["priorities"][0].item() for p in ps] == [5.0, 5.0]


@given(st.integers(1, 6))
def test_state_is_both_moments_and_the_buffer(capacity: int) -> None:
    assert bytes_per_entry(AdamCM, {"capacity": capacity}) == pytest.approx(4 * (2 + capacity + capacity / 1000))


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize("gradient_first", [False, True])
def test_stacked_peers_go_the_way_of_separate_ones(synced: bool, gradient_first: bool) -> None:
    assert_stacks(AdamCM, {"lr": 0.01, "capacity": 3, "synced": synced, "gradient_first": gradient_first})


def test_a_state_that_was_saved_goes_on() -> None:
    first, second = (nn.Parameter(torch.from_numpy(starts()[0])) for _ in range(2))
    optimizer = AdamCM([first], lr=0.01, capacity=2)
    for step in range(12):
        if step == 6:
            second.data.copy_(first.data)
            other = AdamCM([second], lr=0.01, capacity=2)
            other.load_state_dict(optimizer.state_dict())
        torch_gradients([first], quadratic(((6, 4),), seed=8), step)
        optimizer.step()
        if step >= 6:
            second.grad = first.grad
            other.step()
    assert np.array_equal(first.detach().numpy(), second.detach().numpy())


@pytest.mark.parametrize(("name", "value"), [("capacity", -1), ("decay", 1.5), ("synced", 1)])
def test_what_is_not_allowed_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        AdamCM([nn.Parameter(torch.ones(1))], **{name: value})  # type: ignore[arg-type]
