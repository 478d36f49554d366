"""MARS against its restatement in all forms, exact and approximate, and what the variance reduction does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.optim.adam import AdamScaling
from shoal.optim.adamw import AdamW
from shoal.optim.common import Momentum
from shoal.optim.core import Chain, Optimizer, Param
from shoal.optim.mars import MARS, MarsGradient, newton_schulz
from tests.optim.agreement import bytes_per_entry
from tests.optim.following import (
    NETWORK_SHAPES,
    SHAPES,
    Array,
    follow,
    missing,
    network,
    quadratic,
    starts,
    torch_gradients,
)
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import mars as restated

FORMS = ("adamw", "lion", "shampoo")


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=6)
@given(
    st.floats(1e-4, 0.05),
    st.tuples(st.floats(0, 0.98), st.floats(0, 0.999)),
    st.floats(0, 1.5),
    st.floats(0, 0.3),
    st.booleans(),
    st.floats(1e-4, 0.05),
)
def test_mars_goes_the_restated_way(
    form: Any,
    lr: float,
    betas: tuple[float, float],
    gamma: float,
    weight_decay: float,
    optimize_1d: bool,
    lr_1d: float,
) -> None:
    options: dict[str, Any] = {
        "lr": lr,
        "betas": betas,
        "gamma": gamma,
        "weight_decay": weight_decay,
        "form": form,
        "optimize_1d": optimize_1d,
        "lr_1d": lr_1d,
    }
    follow(
        lambda p: MARS(p, **options),
        lambda p: restated.MARS(p, **options),
        missing(quadratic()),
        rates=lambda step: lr / (1 + 0.05 * step),
        rtol=1e-7,
    )


@pytest.mark.parametrize("form", FORMS)
def test_mars_trains_a_network_the_restated_way(form: Any) -> None:
    follow(
        lambda p: MARS(p, lr=0.02, form=form),
        lambda p: restated.MARS(p, lr=0.02, form=form),
        network(),
        shapes=NETWORK_SHAPES,
        rtol=1e-8,
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", [False, True])
def test_the_exact_form_goes_the_restated_way(form: Any, first: bool) -> None:
    options: dict[str, Any] = {"lr": 0.02, "gamma": 0.5, "form": form, "is_approx": False, "optimize_1d": True}
    parameters = [nn.Parameter(torch.from_numpy(p)) for p in starts()]
    ours, theirs = MARS(parameters, **options), restated.MARS(starts(), **options)
    gradients, before = quadratic(seed=12), starts()
    for step in range(50):
        now: list[Array] = [np.array(p) for p in theirs.params]
        current, previous = gradients(now, step), gradients(before, step)
        given_now = previous if step or first else None
        for p, g in zip(parameters, current, strict=True):
            p.grad = torch.from_numpy(np.array(g))
        ours.step(previous_gradients=None if given_now is None else [torch.from_numpy(np.array(h)) for h in given_now])
        theirs.step(current, given_now)
        before = now
        for p, expected in zip(parameters, theirs.params, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-7, atol=1e-9)


def test_without_variance_reduction_and_bound_it_is_adamw() -> None:
    class Unreduced(Optimizer):
        lr: float = 1e-3

        @classmethod
        def links(cls, h: Any, param: Param) -> Chain:
            return MarsGradient(gamma=0.0, bound=math.inf), AdamScaling(0.95, 0.99)

    ours, theirs = ([nn.Parameter(torch.from_numpy(p)) for p in starts()] for _ in range(2))
    optimizers = Unreduced(ours, lr=0.03), AdamW(theirs, lr=0.03, betas=(0.95, 0.99), weight_decay=0.0)
    for step in range(40):
        torch_gradients(theirs, quadratic(seed=2), step)
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad
        for optimizer in optimizers:
            optimizer.step()
        for p, q in zip(ours, theirs, strict=True):
            assert torch.allclose(p, q, rtol=1e-12, atol=1e-12)


def test_what_is_no_matrix_goes_with_adamw_at_its_own_rate() -> None:
    ours, theirs = (nn.Parameter(torch.from_numpy(starts()[1])) for _ in range(2))
    optimizers = (
        MARS([ours], lr=0.2, lr_1d=0.01),
        AdamW([theirs], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1),
    )
    for step in range(20):
        optimizers[0].param_groups[0]["lr"] = 0.2 / (1 + step)  # the first rate has been noted before
        optimizers[1].param_groups[0]["lr"] = 0.01 / (1 + step)
        torch_gradients([theirs], quadratic(((5,),), seed=2), step)
        ours.grad = theirs.grad
        for optimizer in optimizers:
            optimizer.step()
        assert torch.allclose(ours, theirs, rtol=1e-12)


def test_the_corrected_gradient_is_no_longer_than_one() -> None:
    class Corrected(Optimizer):
        lr: float = 1.0

        @classmethod
        def links(cls, h: Any, param: Param) -> Chain:
            return (MarsGradient(gamma=0.5, beta1=0.5),)

    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = Corrected([p])
    for g, expected in (
        ([0.4, 0.0, 0.0], [0.6, 0.0, 0.0]),  # h_1 = 0: 1.5 times
        ([0.0, 0.4, 0.0], [-0.2, 0.6, 0.0]),
        ([0.0, 0.0, 40.0], [0.0, -0.2 / math.sqrt(3600 + 0.04), 60 / math.sqrt(3600 + 0.04)]),
    ):
        before = p.detach().clone()
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        assert torch.allclose(before - p, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_variance_reduction_may_stand_before_any_rule() -> None:
    class Reduced(Optimizer):
        lr: float = 0.1

        @classmethod
        def links(cls, h: Any, param: Param) -> Chain:
            return MarsGradient(gamma=1.0, beta1=0.9), Momentum(0.9)

    parameters = [nn.Parameter(torch.from_numpy(p)) for p in starts()]
    optimizer = Reduced(parameters)
    memory = [np.zeros(s) for s in SHAPES]
    last, expected = [np.zeros(s) for s in SHAPES], starts()
    for step in range(30):
        gradients = quadratic(seed=21)(expected, step)
        for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            assert g is not None
            p.grad = torch.from_numpy(np.array(g))
            c = g + 9.0 * (g - last[i])
            c = c / max(1.0, float(np.sqrt((c**2).sum())))
            memory[i] = 0.9 * memory[i] + c
            last[i] = g
            expected[i] = expected[i] - 0.1 * memory[i]
        optimizer.step()
        for p, e in zip(parameters, expected, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), e, rtol=1e-9, atol=1e-11)
    assert_stacks(Reduced, {"lr": 0.05})


def test_the_momentum_follows_the_gradient_closer_the_more_of_the_exact_reduction() -> None:
    def error(gamma: float) -> float:
        """Mean square distance of m from the gradient, where the noise is of a batch: curvature and offset."""
        draws, total = torch.Generator().manual_seed(31), 0.0
        x = nn.Parameter(torch.ones(200, 4, dtype=torch.float64))  # two axes: the reduced gradient

        class Followed(Optimizer):
            lr: float = 1.0

            @classmethod
            def links(cls, h: Any, param: Param) -> Chain:
                return MarsGradient(gamma, 0.9, math.inf, exact=True), Momentum(0.9)

        optimizer = Followed([x], lr=0.0)
        before = x.detach().clone()
        for step in range(300):
            curvature = 1 + 0.5 * torch.randn(200, 1, generator=draws, dtype=torch.float64)
            offset = torch.randn(200, 4, generator=draws, dtype=torch.float64)
            x.grad = curvature * x.detach() + offset
            if not optimizer.state[x]:
                optimizer.state[x].update(step=0, previous=x.grad.clone(), momentum=torch.zeros_like(x.grad))
            optimizer.state[x]["previous"].copy_(curvature * before + offset)
            optimizer.step()
            m = 0.1 * optimizer.state[x]["momentum"]
            if step >= 100:
                total += float((m - x.detach()).square().sum(1).mean()) / 200
            before = x.detach().clone()
            with torch.no_grad():
                x.sub_(0.03 * m / m.norm(dim=1, keepdim=True))
        return total

    plain, half, storm = error(0.0), error(0.5), error(1.0)
    assert storm < 0.9 * half < 0.9 * 0.9 * plain


def test_newton_schulz_brings_singular_values_near_one() -> None:
    draws = torch.Generator().manual_seed(5)
    for shape in ((6, 6), (9, 4), (3, 11)):
        matrix = torch.randn(shape, generator=draws, dtype=torch.float64)
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        result = newton_schulz(matrix, 1e-8)
        found = u.mT @ result @ v.mT  # the same singular vectors
        assert torch.allclose(found, torch.diag(found.diagonal()), atol=1e-9)
        assert ((found.diagonal() > 0.6) & (found.diagonal() < 1.3))[s / s.norm() > 0.05].all()


@pytest.mark.parametrize(("form", "slots"), [("adamw", 3), ("lion", 2), ("shampoo", 2)])
def test_state_is_one_gradient_more_than_the_rules(form: str, slots: int) -> None:
    assert bytes_per_entry(MARS, {"form": form}) == 4 * slots


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("optimize_1d", [False, True])
def test_stacked_peers_go_the_way_of_separate_ones(form: str, optimize_1d: bool) -> None:
    if optimize_1d:
        assert_stacks(MARS, {"lr": 0.02, "form": form, "optimize_1d": True, "gamma": 0.3}, rtol=1e-8)
    else:
        assert_stacks(MARS, {"lr": 0.02, "form": form, "lr_1d": 0.01, "base_lr": 0.02, "weight_decay": 0.1}, rtol=1e-8)


def test_going_up_is_going_down_the_negative() -> None:
    def end(sign: float, maximize: bool) -> Tensor:
        p = nn.Parameter(torch.from_numpy(starts()[0]))
        optimizer = MARS([p], lr=0.05, is_approx=False, gamma=0.5, maximize=maximize)
        for step in range(10):
            p.grad = sign * torch.cos(torch.arange(24.0, dtype=torch.float64) + step).view(6, 4)
            optimizer.step(previous_gradients=[sign * torch.full((6, 4), 0.1 * step, dtype=torch.float64)])
        return p.detach()

    assert torch.equal(end(1.0, False), end(-1.0, True))
    assert not torch.equal(end(1.0, False), end(1.0, True))


def test_previous_gradients_are_asked_for_and_looked_at() -> None:
    def exact() -> tuple[nn.Parameter, MARS]:
        p = nn.Parameter(torch.ones(2, 2))
        p.grad = torch.ones(2, 2)
        return p, MARS([p], is_approx=False)

    p, optimizer = exact()
    optimizer.step()
    moved = p.detach().clone()
    with pytest.raises(RuntimeError, match="previous_gradients"):
        optimizer.step()
    assert torch.equal(p, moved)
    assert optimizer.state[p]["step"] == 1
    steps: tuple[Callable[[], Any], ...] = (
        lambda: optimizer.step(previous_gradients=[]),
        lambda: optimizer.step(previous_gradients=[torch.ones(3)]),
        lambda: MARS([p]).step(previous_gradients=[torch.ones(2, 2)]),
    )
    for step in steps:
        with pytest.raises(ValueError, match="previous_gradients"):
            step()
    with pytest.raises(ValueError, match="form"):
        MARS([p], form="adam")  # type: ignore[arg-type]


def test_a_closure_gives_the_loss_and_the_gradients() -> None:
    p = nn.Parameter(torch.full((2, 2), 3.0))
    optimizer = MARS([p], lr=0.5)

    def closure() -> float:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 36.0
    assert (p < 3.0).all()
