"""SWATS against its restatement, Adam, SGD, and the closed form of a constant gradient."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.core import Param
from shoal.optim.swats import SWATS
from tests.optim.following import (
    NETWORK_SHAPES,
    SHAPES,
    follow,
    missing,
    network,
    quadratic,
    starts,
    torch_gradients,
)
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import swats as restated

betas = st.tuples(st.floats(0.5, 0.99), st.floats(0.9, 0.999))
tolerances = st.sampled_from([0.0, 1e-3, 1.0, 1e9])  # never, ..., as soon as the mean is positive


@settings(max_examples=12)
@given(st.floats(1e-4, 0.1), betas, st.floats(1e-10, 1e-4), tolerances)
def test_swats_goes_the_restated_way(lr: float, betas: tuple[float, float], eps: float, tolerance: float) -> None:
    chosen = {"lr": lr, "betas": betas, "eps": eps, "tolerance": tolerance}
    follow(
        lambda p: SWATS(p, **chosen),  # type: ignore[arg-type]
        lambda p: restated.SWATS(p, **chosen),  # type: ignore[arg-type]
        missing(quadratic(condition=10.0)),
        rtol=1e-8,
    )


@settings(max_examples=10)
@given(st.floats(1e-4, 0.02), tolerances)
def test_a_changing_rate_changes_sgds_too(lr: float, tolerance: float) -> None:
    follow(
        lambda p: SWATS(p, lr=lr, tolerance=tolerance),
        lambda p: restated.SWATS(p, lr=lr, tolerance=tolerance),
        quadratic(condition=10.0),
        rates=lambda step: lr / (1.0 + 0.1 * step),
        rtol=1e-8,
    )


def test_swats_trains_a_network_the_restated_way_through_the_switch() -> None:
    made: list[restated.SWATS] = []

    def theirs(p: list[np.ndarray]) -> restated.SWATS:
        made.append(restated.SWATS(p, lr=0.01, tolerance=1e-2))
        return made[-1]

    follow(lambda p: SWATS(p, lr=0.01, tolerance=1e-2), theirs, network(), shapes=NETWORK_SHAPES, rtol=1e-8)
    assert made[0].phase == "sgd"


def test_one_tensor_at_a_time_still_makes_one_switch() -> None:
    """Each tensor has a gradient in every fourth step only, so that none alone sees two steps in a row."""

    def in_turn(ps: object, step: int) -> list[np.ndarray | None]:
        return [np.full(shape, 0.5) if step % 4 == i else None for i, shape in enumerate(SHAPES)]

    optimizers: list[SWATS] = []
    others: list[restated.SWATS] = []

    def ours(p: list[nn.Parameter]) -> SWATS:
        optimizers.append(SWATS([{"params": p[:2]}, {"params": p[2:]}], lr=0.01, tolerance=1e-2))
        return optimizers[-1]

    def theirs(p: list[np.ndarray]) -> restated.SWATS:
        others.append(restated.SWATS(p, lr=0.01, tolerance=1e-2))
        return others[-1]

    follow(ours, theirs, in_turn, rtol=1e-9)
    assert others[0].sgd_lr is not None
    assert optimizers[0].sgd_lr == pytest.approx(others[0].sgd_lr, rel=1e-9)


@given(
    st.lists(st.floats(0.1, 5).flatmap(lambda x: st.sampled_from([x, -x])), min_size=2, max_size=6), st.floats(1e-3, 1)
)
@settings(max_examples=25)
def test_a_constant_gradient_switches_at_the_second_step(gradient: list[float], lr: float) -> None:
    """gamma = lr d / |g|_1 in every step."""
    g = torch.tensor(gradient, dtype=torch.float64)
    ps = [nn.Parameter(torch.zeros_like(part)) for part in g.split([1, len(g) - 1])]
    optimizer = SWATS(ps, lr=lr, eps=0.0, tolerance=1e-9)
    found = []
    for _ in range(3):
        for p, part in zip(ps, g.split([1, len(g) - 1]), strict=True):
            p.grad = part.clone()
        optimizer.step()
        found.append(optimizer.sgd_lr)
    expected = lr * len(g) / float(g.abs().sum())
    assert found == [0.0, pytest.approx(expected, rel=1e-12), pytest.approx(expected, rel=1e-12)]


def test_before_the_switch_it_is_adam_and_afterwards_sgd_with_the_found_rate() -> None:
    gradients = quadratic(condition=3.0)
    a, b = ([nn.Parameter(torch.from_numpy(p)) for p in starts()] for _ in range(2))
    optimizer = SWATS(a, lr=0.02, tolerance=0.05)
    other: torch.optim.Optimizer = torch.optim.Adam(b, lr=0.02, eps=1e-300)  # both without eps
    for group in optimizer.param_groups:
        group["eps"] = 1e-300
    in_sgd = 0
    for step in range(200):
        torch_gradients(a, gradients, step)
        torch_gradients(b, gradients, step)
        if optimizer.sgd_lr and not in_sgd:
            other = torch.optim.SGD(b, lr=(1 - 0.9) * optimizer.sgd_lr, momentum=0.9)
        in_sgd += optimizer.sgd_lr > 0
        optimizer.step()
        other.step()
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-11)
    assert 20 <= in_sgd <= 198


def test_a_gradient_against_the_momentum_makes_no_negative_rate() -> None:
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SWATS([w], betas=(0.99, 0.0), tolerance=1e9)
    w.grad = torch.ones_like(w)
    optimizer.step()
    for _ in range(5):
        w.grad = -torch.ones_like(w) * 1e-3  # gamma < 0, and with beta2 = 0 its mean is gamma itself
        optimizer.step()
        assert optimizer.sgd_lr == 0.0


def test_where_the_step_is_at_right_angles_to_the_gradient_the_estimate_stays() -> None:
    follow(
        lambda p: SWATS(p, lr=0.1, tolerance=1e-1),
        lambda p: restated.SWATS(p, lr=0.1, tolerance=1e-1),
        lambda ps, step: [np.full(p.shape, 0.0 if step in (2, 3) else 1.0 + step % 3) for p in ps],
        steps=50,
    )


@pytest.mark.parametrize("way", ["copied", "loaded"])
def test_the_estimate_outlives_saving(way: str) -> None:
    gradients = missing(quadratic(condition=3.0), every=2)
    first = [nn.Parameter(torch.from_numpy(p)) for p in starts()]
    one = SWATS(first, lr=0.01, tolerance=0.02)
    for step in range(5):
        torch_gradients(first, gradients, step)
        one.step()
    if way == "copied":
        two = copy.deepcopy(one)
        second = two.param_groups[0]["params"]
    else:
        second = [nn.Parameter(p.detach().clone()) for p in first]
        two = SWATS(second, lr=0.01, tolerance=0.02)
        two.load_state_dict(copy.deepcopy(one.state_dict()))
    for step in range(5, 80):
        for ps, optimizer in ((first, one), (second, two)):
            torch_gradients(ps, gradients, step)
            optimizer.step()
        for p, q in zip(first, second, strict=True):
            assert torch.equal(p, q)
    assert one.sgd_lr == two.sgd_lr > 0


def test_groups_with_other_betas_are_refused() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"^betas: "):
        SWATS([{"params": [a]}, {"params": [b], "betas": (0.9, 0.99)}])


@pytest.mark.parametrize("tolerance", [1e-9, 0.05, 1e9])
def test_stacked_peers_go_the_way_of_separate_ones(tolerance: float) -> None:
    assert_stacks(SWATS, {"lr": 0.05, "tolerance": tolerance, "betas": (0.8, 0.99)}, steps=20)


def test_stacked_peers_switch_each_at_its_time() -> None:
    """Constant gradients switch at once, changing ones later or never."""
    rule, params = SWATS.rule(lr=0.01), [Param("w", (3,))]
    p = torch.zeros(2, 3, dtype=torch.float64)
    fresh = rule.memory({"w": p[0]})
    memory = {key: torch.stack([value, value]) for key, value in fresh.items()}
    state = rule.views(memory, params)
    for t in range(1, 6):
        g = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, (-1.0) ** t]], dtype=torch.float64)
        now = torch.full((2,), float(t), dtype=torch.float64)
        rule.step(params, [p], [g], state, now, torch.full((2,), 0.01, dtype=torch.float64))
    assert (state[0]["estimate"][:, 1, 2] > 0).tolist() == [True, False]


def test_state_is_two_numbers_a_weight_and_eight_a_tensor() -> None:
    ps = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = SWATS(ps)
    for p in ps:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state_bytes() == 8 * sum(p.numel() for p in ps) + 8 * 8 * len(ps)
