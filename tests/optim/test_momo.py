"""MoMo against a restatement, the authors' package (PyPI: momo-opt) and Polyak's step, and what the cap promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.engine import PeerFailed
from shoal.optim import SANIA, Lookahead, MoMo, MoMoAdam
from shoal.simulation import simulate
from tests.optim.following import (
    NETWORK_SHAPES,
    follow,
    network,
    network_loss,
    quadratic,
    quadratic_loss,
    starts,
    torch_gradients,
)
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import momo as restated

theirs = pytest.importorskip("momo", reason="momo-opt is not installed")
alphas = st.floats(1e-3, 10.0)
decays, bounds, estimates = st.sampled_from([0.0, 0.1]), st.sampled_from([0.0, -2.0, 0.5]), st.booleans()


def together(first: torch.optim.Optimizer, second: torch.optim.Optimizer, steps: int = 60) -> float:
    """The largest distance on the way, relative to the weights; gradients and losses are of the second's weights."""
    a, b = (o.param_groups[0]["params"] for o in (first, second))
    gradients, worst = quadratic(seed=4, condition=30.0), 0.0
    for step in range(steps):
        torch_gradients(b, gradients, step)
        for p, q in zip(a, b, strict=True):
            p.grad = q.grad.clone()
        loss = sum(0.5 * (p.detach() * p.grad).sum() for p in b)
        first.step(loss=loss.clone())  # type: ignore[call-arg]
        second.step(loss=loss.clone())  # type: ignore[call-arg]
        for p, q in zip(a, b, strict=True):
            apart = float((p - q).detach().abs().max()) / max(1.0, float(q.detach().abs().max()))
            worst = max(worst, apart)
    return worst


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.from_numpy(p.copy())) for p in starts(seed=4)]


@settings(max_examples=10, deadline=None)
@given(alphas, st.floats(0.0, 0.95), decays, bounds, estimates)
def test_momo_goes_the_way_of_the_authors_package(
    lr: float, beta: float, decay: float, lb: float, use_fstar: bool
) -> None:
    chosen = {"lr": lr, "weight_decay": decay, "beta": beta, "lb": lb, "use_fstar": use_fstar}
    theirs_ = theirs.Momo(weights(), bias_correction=False, **chosen)
    assert together(MoMo(weights(), **chosen), theirs_) < 1e-8  # type: ignore[arg-type]


@settings(max_examples=10, deadline=None)
@given(st.floats(1e-4, 1.0), st.floats(0.5, 0.95), st.floats(0.9, 0.999), decays, bounds, estimates)
def test_momo_adam_goes_the_way_of_the_authors_package(
    lr: float, beta1: float, beta2: float, decay: float, lb: float, use_fstar: bool
) -> None:
    chosen = {"lr": lr, "weight_decay": decay, "betas": (beta1, beta2), "lb": lb, "use_fstar": use_fstar}
    torch.set_default_dtype(torch.float64)  # the package's gamma has the default type, whatever the weights have
    try:
        theirs_ = theirs.MomoAdam(weights(), **chosen)
        assert together(MoMoAdam(weights(), **chosen), theirs_) < 1e-8  # type: ignore[arg-type]
    finally:
        torch.set_default_dtype(torch.float32)


@settings(max_examples=12, deadline=None)
@given(alphas, st.floats(0.0, 0.95), st.floats(0.0, 0.5), st.floats(-2.0, 2.0), estimates, st.floats(1.0, 1e4))
def test_momo_goes_the_restated_way(
    lr: float, beta: float, decay: float, lb: float, use_fstar: bool, condition: float
) -> None:
    follow(
        lambda p: MoMo(p, lr=lr, beta=beta, weight_decay=decay, lb=lb, use_fstar=use_fstar),
        lambda p: restated.MoMo(p, lr=lr, beta=beta, weight_decay=decay, lower_bound=lb, estimate=use_fstar),
        quadratic(condition=condition),
        rates=lambda step: lr / (1 + 0.1 * step),
        losses=quadratic_loss(condition=condition),
    )


@settings(max_examples=12, deadline=None)
@given(
    st.floats(1e-4, 1.0),
    st.tuples(st.floats(0.0, 0.95), st.floats(0.5, 0.999)),
    st.floats(0.0, 0.5),
    st.floats(-2.0, 2.0),
    estimates,
    st.floats(1.0, 1e4),
)
def test_momo_adam_goes_the_restated_way(
    lr: float, betas: tuple[float, float], decay: float, lb: float, use_fstar: bool, condition: float
) -> None:
    follow(
        lambda p: MoMoAdam(p, lr=lr, betas=betas, weight_decay=decay, lb=lb, use_fstar=use_fstar),
        lambda p: restated.MoMoAdam(p, lr=lr, betas=betas, weight_decay=decay, lower_bound=lb, estimate=use_fstar),
        quadratic(condition=condition),
        rates=lambda step: lr / (1 + 0.1 * step),
        losses=quadratic_loss(condition=condition),
    )


@pytest.mark.parametrize("use_fstar", [False, True])
def test_both_train_a_network_the_restated_way(use_fstar: bool) -> None:
    for ours, other in ((MoMo, restated.MoMo), (MoMoAdam, restated.MoMoAdam)):
        follow(
            lambda p, ours=ours: ours(p, lr=0.3, use_fstar=use_fstar),  # type: ignore[misc]
            lambda p, other=other: other(p, lr=0.3, estimate=use_fstar),  # type: ignore[misc]
            network(),
            shapes=NETWORK_SHAPES,
            losses=network_loss(),
        )


def test_without_momentum_and_cap_it_is_polyaks_step() -> None:
    x = nn.Parameter(torch.tensor([3.0, -1.0], dtype=torch.float64))
    optimizer = MoMo([x], lr=1e12, beta=0.0, lb=0.25)
    for _ in range(4):
        optimizer.zero_grad()
        loss = (x.square() * torch.tensor([1.0, 4.0], dtype=torch.float64)).sum() + 0.25
        loss.backward()
        assert x.grad is not None
        expected = x.detach() - (loss.detach() - 0.25) / x.grad.square().sum() * x.grad
        optimizer.step(loss=loss)
        torch.testing.assert_close(x.detach(), expected, rtol=1e-12, atol=0)


def least_squares(optimizer: type[torch.optim.Optimizer], **chosen: float) -> float:
    """Loss after 300 steps on a system with a solution."""
    random = torch.Generator().manual_seed(77)
    A = torch.randn(120, 12, generator=random, dtype=torch.float64)
    b = A @ torch.randn(12, generator=random, dtype=torch.float64)
    x = nn.Parameter(torch.zeros(12, dtype=torch.float64))
    made = optimizer([x], **chosen)  # type: ignore[call-arg]
    for _ in range(300):
        rows = torch.randint(120, (20,), generator=random)

        def closure(rows: torch.Tensor = rows) -> torch.Tensor:
            made.zero_grad()
            loss = 0.5 * (A[rows] @ x - b[rows]).square().mean()
            loss.backward()
            return loss

        made.step(closure)  # type: ignore[arg-type]
    return float(0.5 * (A @ x - b).square().mean())


def test_the_cap_does_not_matter_where_momentum_itself_diverges() -> None:
    assert [least_squares(MoMo, lr=cap) < 1e-6 for cap in (1.0, 10.0, 1000.0)] == [True] * 3
    assert not least_squares(torch.optim.SGD, lr=10.0, momentum=0.9, dampening=0.9) < 1e3


def test_a_step_without_the_loss_says_what_is_missing() -> None:
    x = nn.Parameter(torch.ones(2))
    x.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match=r"MoMo needs the loss: step\(closure\)"):
        MoMo([x]).step()
    with pytest.raises(ValueError, match="loss: got nan"):
        MoMo([x]).step(loss=float("nan"))
    assert torch.equal(x, torch.ones(2))


@pytest.mark.parametrize("cls", [MoMo, MoMoAdam, SANIA])
def test_stacked_peers_go_their_own_ways(cls: type[MoMo] | type[MoMoAdam] | type[SANIA]) -> None:
    assert_stacks(cls, {"lr": 0.1})


@pytest.mark.parametrize("name", ["sania", "momo", "momo-adam:lr=0.1"])
def test_batched_peers_are_told_their_own_losses(name: str) -> None:
    common = {"task": "digits", "peers": 4, "partition": "dirichlet:0.5", "rounds": 2, "seed": 5, "optimizer": name}
    batched, single = (simulate("gossip:steps=4", **common, batched=b) for b in (True, False))
    for i in batched.models:
        torch.testing.assert_close(batched.models[i], single.models[i], rtol=1e-4, atol=1e-5)
    assert batched.final("loss") < simulate("gossip:steps=0", **common).final("loss")


def test_a_gradient_from_elsewhere_is_refused() -> None:
    with pytest.raises(PeerFailed, match="momo needs the loss of its own batch"):
        simulate("terngrad", task="digits", peers=2, rounds=1, optimizer="momo")


@pytest.mark.parametrize("make", [MoMo, MoMoAdam, SANIA, lambda p: Lookahead(MoMo(p))])
def test_a_loss_without_its_gradients_is_refused(make: Any) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = make([p])

    def loss() -> torch.Tensor:
        return p.square().sum()

    def backward() -> torch.Tensor:
        found = loss()
        found.backward()
        return found

    with pytest.raises(ValueError, match=r"closure: got Tensor; .*step\(loss=loss\)"):
        optimizer.step(loss())
    for told in ({"loss": loss()}, {"closure": loss}):
        with pytest.raises(RuntimeError, match=r"loss with no gradients; call loss.backward\(\)"):
            optimizer.step(**told)
    assert torch.equal(p, torch.ones(3))
    optimizer.step(loss=backward())
    for told in ({"loss": loss()}, {"closure": loss}):
        with pytest.raises(RuntimeError, match="the gradients of the step before"):
            optimizer.step(**told)
    held = p.detach().clone()
    optimizer.step(backward)  # gradients are added up
    assert not torch.equal(p, held)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step(loss=backward())
    p.requires_grad_(False)
    p.grad = None
    optimizer.step(loss=1.0)  # nothing is trained
