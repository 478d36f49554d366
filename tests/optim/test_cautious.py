"""Cautious optimizers against their restatements, what the mask does, and stacked peers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adam import Adam
from shoal.optim.adamw import AdamW
from shoal.optim.cautious import Cautious, CautiousMask, cautious, mask
from shoal.optim.lion import Lion
from shoal.optim.mars import MARS
from shoal.optim.sgd import SGD
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic, starts
from tests.optim.stacking import assert_stacks
from tests.optim.wrapped import Wrapped
from tests.restatements.optimizers import adam as restated_adam
from tests.restatements.optimizers import cautious as restated

scalings = st.sampled_from(["count", "mean"])
rates = st.floats(1e-4, 0.1)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.999))


@settings(max_examples=10)
@given(rates, betas, st.floats(0.0, 0.5), scalings, st.booleans())
def test_cautious_adamw_goes_the_restated_way(
    lr: float, betas: tuple[float, float], weight_decay: float, scaling: str, foreign: bool
) -> None:
    both: dict[str, Any] = {"lr": lr, "betas": betas, "eps": 1e-7, "weight_decay": weight_decay}
    make = torch.optim.AdamW if foreign else AdamW
    follow(
        lambda p: Cautious(make(p, **both), scaling=scaling),
        lambda p: restated.CautiousAdamW(p, **both, scaling=scaling),  # type: ignore[arg-type]
        missing(quadratic()),
        rtol=1e-8 if foreign else 1e-9,
    )


@settings(max_examples=10)
@given(rates, st.tuples(st.floats(0.1, 0.99), st.floats(0.1, 0.99)), scalings)
def test_cautious_lion_goes_the_restated_way(lr: float, betas: tuple[float, float], scaling: str) -> None:
    both: dict[str, Any] = {"lr": lr, "betas": betas, "weight_decay": 0.1}
    follow(
        lambda p: Cautious(Lion(p, **both), scaling=scaling),
        lambda p: restated.CautiousLion(p, **both, scaling=scaling),  # type: ignore[arg-type]
        missing(quadratic()),
    )


@pytest.mark.parametrize("scaling", ["count", "mean"])
def test_the_restated_wrapper_around_adam_goes_the_same_way_on_a_network(scaling: Any) -> None:
    follow(
        lambda p: Cautious(Adam(p), scaling=scaling),
        lambda p: restated.Cautious(restated_adam.Adam(p), scaling=scaling),
        network(),
        shapes=NETWORK_SHAPES,
        rates=lambda step: 0.03 / (1 + step // 20),
    )


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=30), scalings)
def test_the_mask_is_the_restated_one_and_never_climbs(pairs: list[tuple[float, float]], scaling: Any) -> None:
    u, g = torch.tensor(pairs, dtype=torch.float64).T.contiguous()
    found = mask(u, g, scaling)
    underflow = (u != 0) & (g != 0) & (u * g == 0)
    if not underflow.any():
        expected = restated.cautious_mask(u.numpy(), g.numpy(), scaling=scaling) * u.numpy()
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert float((found * g).min()) >= 0.0
    assert bool((found[u * g.sign() <= 0] == 0).all())


def test_updates_and_gradients_whose_product_is_too_small_to_hold_agree_all_the_same() -> None:
    tiny = torch.full((3,), 1e-30)
    assert float((tiny * tiny).max()) == 0.0
    torch.testing.assert_close(mask(tiny, tiny), tiny * 3 / 4)


@pytest.mark.parametrize("wrapped", [SGD, torch.optim.SGD])
def test_without_momentum_nothing_is_masked(wrapped: Any) -> None:
    """Scaled by the mean that is the optimizer itself; by the count, d / (d + 1) of its steps."""
    start = torch.from_numpy(starts(((7,),), seed=6)[0])
    for scaling, part in (("mean", 1.0), ("count", 7 / 8)):
        p = nn.Parameter(start.clone())
        p.grad = torch.cos(start)
        Cautious(wrapped([p], lr=0.3), scaling=scaling).step()
        torch.testing.assert_close(p.detach(), start - 0.3 * part * torch.cos(start), rtol=1e-12, atol=1e-12)


def test_decay_is_not_masked() -> None:
    """A momentum against the gradient is left out, the decay is not."""
    for wrapped in (AdamW, torch.optim.AdamW):
        p = nn.Parameter(torch.ones(4, dtype=torch.float64))
        optimizer = Cautious(wrapped([p], lr=0.1, weight_decay=0.5))  # type: ignore[operator]
        for size, signs in ((100.0, 1.0), (1.0, -1.0)):
            before = p.detach().clone()
            p.grad = torch.full_like(p, size * signs)
            optimizer.step()
        torch.testing.assert_close(p.detach(), 0.95 * before, rtol=1e-12, atol=0.0)


def test_averages_of_the_optimizer_are_not_masked() -> None:
    ends = []
    for wrap in (lambda o: o, Cautious):
        p = nn.Parameter(torch.zeros(6, dtype=torch.float64))
        optimizer = wrap(Adam([p]))  # type: ignore[operator]
        for step in range(9):
            p.grad = torch.sin(torch.arange(6.0, dtype=torch.float64) * step)
            optimizer.step()
        ends.append((optimizer.state[p]["m"], optimizer.state[p]["v"]))
    for a, b in zip(*ends, strict=True):
        assert torch.equal(a, b)


def test_a_heavy_ball_on_a_narrow_quadratic_seldom_climbs_when_it_is_cautious() -> None:
    curvature = torch.tensor([1.0, 24.0], dtype=torch.float64)
    climbs = []
    for wrap in (lambda o: o, Cautious):
        p = nn.Parameter(torch.tensor([2.0, 1.5], dtype=torch.float64))
        optimizer, losses = wrap(SGD([p], lr=0.002, momentum=0.97)), []  # type: ignore[operator]
        for _ in range(250):
            p.grad = curvature * p.detach()
            losses.append(float(p.detach() @ p.grad))
            optimizer.step()
        climbs.append(int((np.diff(losses) > 0).sum()))
    assert climbs[0] > 50
    assert climbs[1] < 5


def test_the_mask_stands_once_at_the_end_of_the_chain() -> None:
    p = nn.Parameter(torch.zeros(3))
    bare = MARS([p], form="lion", optimize_1d=True)
    Cautious(Cautious(bare))
    plan = next(iter(bare._plans(0, bare.param_groups[0]).values()))
    assert [type(link).__name__ for link in plan.chain[-2:]] == ["SignOfAverage", "CautiousMask"]


@pytest.mark.parametrize("cls", [AdamW, Lion])
@pytest.mark.parametrize("scaling", ["count", "mean"])
def test_stacked_peers_go_the_way_of_separate_ones(cls: Any, scaling: str) -> None:
    wrapped: Any = Wrapped(cls, lambda o: Cautious(o, scaling=scaling), lambda rule: cautious(rule, scaling))
    assert_stacks(wrapped, {"lr": 0.02, "weight_decay": 0.1})
    chained: Any = Wrapped(cls, Cautious, lambda rule: rule.then(CautiousMask()))
    assert_stacks(chained, {"lr": 0.02, "weight_decay": 0.1})


def test_other_scalings_are_refused() -> None:
    for make in (
        lambda: Cautious(Adam([nn.Parameter(torch.zeros(1))]), scaling="sum"),
        lambda: cautious(Adam.rule(), "sum"),
    ):
        with pytest.raises(ValueError, match=r"^scaling: got 'sum'"):
            make()
