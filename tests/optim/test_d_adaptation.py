"""D-adaptation against a restatement and the authors' package (PyPI: dadaptation), and the bound that it promises."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim import DAdaptAdam, DAdaptSGD
from tests.optim.agreement import assert_as_torch
from tests.optim.following import NETWORK_SHAPES, follow, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import d_adaptation as restated

theirs = pytest.importorskip("dadaptation", reason="dadaptation is not installed")
d0s, decays = st.floats(1e-8, 1e-2), st.sampled_from([0.0, 0.1])
growths = st.sampled_from([math.inf, 1.02, 1.5])


@settings(max_examples=8, deadline=None)
@given(st.floats(0.2, 1.5), st.sampled_from([0.0, 0.9]), d0s, growths)
def test_sgd_goes_the_way_of_the_authors_package(lr: float, momentum: float, d0: float, growth_rate: float) -> None:
    """Without weight decay: there the package means to add it before it takes |g_0|, but throws the sum away."""
    chosen = {"lr": lr, "momentum": momentum, "d0": d0, "growth_rate": growth_rate}
    assert_as_torch(
        lambda p: DAdaptSGD(p, **chosen),  # type: ignore[arg-type]
        lambda p: theirs.DAdaptSGD(p, **chosen),
        quadratic(condition=30.0),
        tolerance=1e-7,
    )


@settings(max_examples=8, deadline=None)
@given(st.floats(0.2, 1.5), st.floats(0.5, 0.95), st.floats(0.9, 0.999), d0s, decays, growths)
def test_adam_goes_the_way_of_the_authors_package(
    lr: float, beta1: float, beta2: float, d0: float, decay: float, growth_rate: float
) -> None:
    chosen = {"lr": lr, "betas": (beta1, beta2), "d0": d0, "weight_decay": decay, "growth_rate": growth_rate}
    assert_as_torch(
        lambda p: DAdaptAdam(p, **chosen),  # type: ignore[arg-type]
        lambda p: theirs.DAdaptAdam(p, **chosen),
        quadratic(condition=30.0),
        tolerance=1e-7,
    )


@settings(max_examples=12, deadline=None)
@given(st.floats(0.2, 1.5), st.floats(0.0, 0.95), d0s, decays, growths, st.floats(1.0, 1e4))
def test_sgd_goes_the_restated_way(
    lr: float, momentum: float, d0: float, decay: float, growth: float, condition: float
) -> None:
    chosen = {"lr": lr, "momentum": momentum, "d0": d0, "weight_decay": decay}
    follow(
        lambda p: DAdaptSGD(p, growth_rate=growth, **chosen),
        lambda p: restated.DAdaptSGD(p, growth=growth, **chosen),
        quadratic(condition=condition),
        rates=lambda step: lr / (1 + 0.1 * step),
    )


@settings(max_examples=12, deadline=None)
@given(st.floats(0.2, 1.5), st.floats(0.0, 0.95), st.floats(0.9, 0.999), d0s, decays, growths, st.floats(1.0, 1e4))
def test_adam_goes_the_restated_way(
    lr: float, beta1: float, beta2: float, d0: float, decay: float, growth: float, condition: float
) -> None:
    chosen = {"lr": lr, "betas": (beta1, beta2), "d0": d0, "weight_decay": decay}
    follow(
        lambda p: DAdaptAdam(p, growth_rate=growth, **chosen),  # type: ignore[arg-type]
        lambda p: restated.DAdaptAdam(p, growth=growth, **chosen),  # type: ignore[arg-type]
        quadratic(condition=condition),
        rates=lambda step: lr / (1 + 0.1 * step),
    )


@pytest.mark.parametrize("d0", [1e-6, 1e-2])
def test_both_train_a_network_the_restated_way(d0: float) -> None:
    follow(
        lambda p: DAdaptSGD(p, momentum=0.9, d0=d0),
        lambda p: restated.DAdaptSGD(p, momentum=0.9, d0=d0),
        network(),
        shapes=NETWORK_SHAPES,
        steps=150,
    )
    follow(
        lambda p: DAdaptAdam(p, d0=d0),
        lambda p: restated.DAdaptAdam(p, d0=d0),
        network(),
        shapes=NETWORK_SHAPES,
        steps=150,
    )


@pytest.mark.parametrize("d0", [1e-7, 1e-3])
def test_d_only_grows_and_stays_below_twice_the_distance(d0: float) -> None:
    """On a convex function that is not smooth, mean |A x - b|; SGD's form has a factor 2."""
    random = torch.Generator().manual_seed(23)
    A = torch.randn(40, 6, generator=random, dtype=torch.float64)
    solution = torch.randn(6, generator=random, dtype=torch.float64) * 3.0
    x = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    optimizer, found = DAdaptSGD([x], d0=d0), []
    for _ in range(400):
        optimizer.zero_grad()
        (A @ (x - solution)).abs().mean().backward()
        optimizer.step()
        found.append(float(optimizer.state[x]["d"]))
    assert found == sorted(found)
    assert 0.05 * float(solution.norm()) < found[-1] <= 2.0 * float(solution.norm())


@pytest.mark.parametrize("cls", [DAdaptSGD, DAdaptAdam])
def test_the_growth_of_d_is_bounded(cls: type[DAdaptSGD] | type[DAdaptAdam]) -> None:
    x = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer, found = cls([x], d0=1e-3, growth_rate=1.25), [1e-3]
    for _ in range(20):
        x.grad = torch.ones_like(x)
        optimizer.step()
        found.append(float(optimizer.state[x]["d"]))
    steps = [b / a for a, b in itertools.pairwise(found)]
    assert max(steps) == pytest.approx(1.25, rel=1e-12)
    assert steps[-1] == pytest.approx(1.25, rel=1e-12)
    with pytest.raises(ValueError, match=r"growth_rate: got 0.5; a number >= 1, or infinity is allowed"):
        cls([x], growth_rate=0.5)


def test_decay_is_a_part_of_the_gradient() -> None:
    a, b = (nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64)) for _ in range(2))
    with_decay, without = DAdaptSGD([a], d0=0.1, weight_decay=0.3), DAdaptSGD([b], d0=0.1)
    for _ in range(6):
        a.grad = (a.detach() - 5.0) * 2.0
        b.grad = (b.detach() - 5.0) * 2.0 + 0.3 * b.detach()
        with_decay.step()
        without.step()
    torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    assert float(a.detach().sum()) != 1.0


@pytest.mark.parametrize("cls", [DAdaptSGD, DAdaptAdam])
def test_stacked_peers_go_their_own_ways(cls: type[DAdaptSGD] | type[DAdaptAdam]) -> None:
    assert_stacks(cls, {"lr": 1.0, "d0": 1e-3})


def test_all_parameters_share_one_d() -> None:
    a, b = (nn.Parameter(torch.ones(n)) for n in (2, 3))
    optimizer = DAdaptAdam([a, b], d0=1e-3)
    for step in range(8):
        optimizer.zero_grad()
        (a.sum() * 3.0 + (b.square().sum() if step % 2 else 0.0)).backward()
        optimizer.step()
    assert optimizer.state[a]["d"] is optimizer.state[b]["d"]
    assert float(optimizer.state[a]["d"]) > 1e-3
