"""Coordinate-wise clipping against its restatement, how many coordinates it cuts, and stacked peers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adalomo import LOMO
from shoal.optim.adamw import AdamW
from shoal.optim.coordinate_clip import ClippedAdam, CoordinateClip, clip, coordinate_clip, threshold
from shoal.optim.core import Param
from shoal.optim.lookahead import lookahead
from shoal.optim.momo import MoMo
from shoal.optim.sgd import SGD
from shoal.optim.xgrad import XGrad, xgrad
from tests.optim.following import NETWORK_SHAPES, follow, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.optim.wrapped import Wrapped
from tests.restatements.optimizers import clipping as restated

shares = st.floats(0.0, 1.0)
rates = st.floats(1e-4, 0.1)


@settings(max_examples=12)
@given(rates, shares, st.floats(0.01, 0.95), st.sampled_from([0.0, 0.2]), st.booleans())
def test_clipped_sgd_goes_the_restated_way(lr: float, rho: float, mu: float, decay: float, foreign: bool) -> None:
    make: Any = torch.optim.SGD if foreign else SGD
    both: dict[str, Any] = {"lr": lr, "momentum": mu, "dampening": 0.4, "weight_decay": decay}
    follow(
        lambda p: CoordinateClip(make(p, **both), rho=rho),
        lambda p: restated.ClippedSGD(p, rho=rho, **both),
        quadratic(),
        steps=20,
    )


@settings(max_examples=10)
@given(rates, shares, st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)), st.floats(0.0, 0.5))
def test_clipped_adam_goes_the_restated_way(
    lr: float, rho: float, betas: tuple[float, float], weight_decay: float
) -> None:
    both: dict[str, Any] = {"lr": lr, "rho": rho, "betas": betas, "eps": 1e-7, "weight_decay": weight_decay}
    follow(lambda p: ClippedAdam(p, **both), lambda p: restated.ClippedAdam(p, **both), quadratic(), steps=20)


def test_the_same_on_a_network() -> None:
    rule: dict[str, Any] = {"shapes": NETWORK_SHAPES, "rates": lambda step: 0.1 / (1 + step // 20)}
    follow(lambda p: CoordinateClip(SGD(p, momentum=0.9)), lambda p: restated.ClippedSGD(p, lr=0.1), network(), **rule)
    follow(ClippedAdam, restated.ClippedAdam, network(), **rule)


@settings(max_examples=50)
@given(st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=40), st.floats(1e-6, 1.0))
def test_the_threshold_is_the_restated_one_with_ties_and_zeros(entries: list[float], rho: float) -> None:
    g = torch.tensor(entries, dtype=torch.float64)
    c = threshold(g.abs(), rho)
    assert float(c) == restated.threshold([g.numpy()], rho)
    np.testing.assert_array_equal(clip(g, c).numpy(), restated.clip([g.numpy()], rho)[0])
    assert int((clip(g, c) != g).sum()) <= int(rho * len(g))


def test_without_ties_just_the_share_is_clipped_whichever_tensors_they_are_in() -> None:
    large, small = nn.Parameter(torch.zeros(40).double()), nn.Parameter(torch.zeros(60).double())
    large.grad, small.grad = 100.0 + torch.arange(40.0).double(), torch.arange(60.0).double()
    CoordinateClip(SGD([{"params": [large]}, {"params": [small]}], lr=1.0), rho=0.25).step()
    assert int((-large.detach() != large.grad).sum()) == 25
    assert torch.equal(-small.detach(), small.grad)
    assert float(large.detach().min()) == -114.0


def test_a_foreign_optimizers_gradients_are_as_they_were() -> None:
    p = nn.Parameter(torch.zeros(10))
    p.grad = given_ = torch.arange(10.0)
    CoordinateClip(torch.optim.SGD([p], lr=1.0), rho=0.5).step()
    assert p.grad is given_
    assert given_.tolist() == list(range(10))
    assert p.tolist() == [-0.0, -1.0, -2.0, -3.0, -4.0, -4.0, -4.0, -4.0, -4.0, -4.0]


def test_parameters_without_a_gradient_do_not_count() -> None:
    for make in (SGD, torch.optim.SGD):
        p, other = nn.Parameter(torch.zeros(10)), nn.Parameter(torch.zeros(90))
        p.grad = torch.arange(10.0)
        CoordinateClip(make([p, other], lr=1.0), rho=0.1).step()  # type: ignore[operator]
        assert p.tolist() == [-0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -8.0]
        assert not other.any()


@pytest.mark.parametrize("wrap", [CoordinateClip, XGrad])
def test_the_loss_of_a_closure_reaches_an_optimizer_that_needs_it(wrap: Any) -> None:
    ends = []
    for closed in (False, True):
        p = nn.Parameter(torch.full((5,), 0.3, dtype=torch.float64))
        optimizer = wrap(MoMo([p]))

        def closure(p: Any = p) -> float:
            p.grad = p.detach() * torch.arange(5.0)
            return float((p.detach().square() * torch.arange(5.0)).sum() / 2)

        for _ in range(4):
            if closed:
                optimizer.step(closure)
            else:
                optimizer.step(loss=closure())
        ends.append(p.detach())
    assert torch.equal(*ends)
    assert float(ends[0][4]) != 0.3


def test_the_clipping_stands_before_all_but_predicted_weights() -> None:
    rule = lookahead(coordinate_clip(xgrad(AdamW.rule())))
    names = [type(link).__name__ for link in rule.plan(Param("p", (3,))).chain]
    assert names[:3] == ["PredictedWeights", "SlowWeights", "CoordinateClipping"]


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("cls", [SGD, AdamW])
def test_stacked_peers_go_the_way_of_separate_ones(cls: Any, rho: float) -> None:
    wrapped: Any = Wrapped(cls, lambda o: CoordinateClip(o, rho=rho), lambda rule: coordinate_clip(rule, rho))
    assert_stacks(wrapped, {"lr": 0.02})


def test_an_optimizer_that_never_has_all_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match="optimizer: got LOMO, which never has all gradients"):
        CoordinateClip(LOMO([nn.Parameter(torch.zeros(1))]))


@pytest.mark.parametrize("rho", [-0.1, 1.1, float("nan"), "much", True])
def test_other_shares_are_refused(rho: Any) -> None:
    p = [nn.Parameter(torch.zeros(1))]
    for make in (
        lambda: CoordinateClip(SGD(p), rho=rho),
        lambda: coordinate_clip(SGD.rule(), rho),
        lambda: ClippedAdam(p, rho=rho),
    ):
        with pytest.raises(ValueError, match=r"^rho: got"):
            make()
