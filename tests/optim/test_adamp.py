"""AdamP and SGDP against their restatements, AdamW and SGD, and what the projection must do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.optim.adamp import SGDP, AdamP, NesterovScaling
from shoal.optim.core.plan import Plan
from shoal.optim.core.recording import source
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adamp as restated

rates = st.floats(1e-4, 0.1)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999))
deltas = st.sampled_from([0.0, 0.1, 0.7, 3.0])  # never projected, ..., nearly always
decays = st.sampled_from([0.0, 0.2])


@settings(max_examples=15)
@given(rates, betas, st.floats(1e-10, 1e-3), decays, deltas, st.floats(0, 2), st.booleans())
def test_adamp_goes_the_restated_way(
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    delta: float,
    wd_ratio: float,
    nesterov: bool,
) -> None:
    chosen = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    chosen |= {"delta": delta, "wd_ratio": wd_ratio, "nesterov": nesterov}
    follow(
        lambda p: AdamP(p, **chosen),  # type: ignore[arg-type]
        lambda p: restated.AdamP(p, **chosen),  # type: ignore[arg-type]
        missing(quadratic()),
        rates=lambda step: lr / (1 + step % 7),
    )


@settings(max_examples=15)
@given(rates, st.floats(0, 0.95), st.floats(0, 0.9), decays, deltas, st.floats(0, 2), st.booleans())
def test_sgdp_goes_the_restated_way(
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    delta: float,
    wd_ratio: float,
    nesterov: bool,
) -> None:
    chosen = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
    chosen |= {"delta": delta, "wd_ratio": wd_ratio, "nesterov": nesterov}
    follow(
        lambda p: SGDP(p, **chosen),  # type: ignore[arg-type]
        lambda p: restated.SGDP(p, **chosen),  # type: ignore[arg-type]
        missing(quadratic(condition=10.0)),
    )


@pytest.mark.parametrize("dampening", [0.0, 0.4])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgdp_without_momentum_goes_the_restated_way(dampening: float, nesterov: bool) -> None:
    chosen = {"lr": 0.05, "dampening": dampening, "nesterov": nesterov, "weight_decay": 0.1}
    follow(
        lambda p: SGDP(p, **chosen),  # type: ignore[arg-type]
        lambda p: restated.SGDP(p, **chosen),  # type: ignore[arg-type]
        quadratic(condition=10.0),
    )


@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_they_train_a_network_the_restated_way(delta: float) -> None:
    follow(
        lambda p: AdamP(p, lr=0.02, delta=delta, weight_decay=0.1),
        lambda p: restated.AdamP(p, lr=0.02, delta=delta, weight_decay=0.1),
        network(),
        shapes=NETWORK_SHAPES,
    )
    follow(
        lambda p: SGDP(p, lr=0.2, momentum=0.9, delta=delta),
        lambda p: restated.SGDP(p, lr=0.2, momentum=0.9, delta=delta),
        network(),
        shapes=NETWORK_SHAPES,
    )


def test_without_a_tolerated_cosine_they_are_adamw_and_sgd() -> None:
    first = [torch.randn(shape, dtype=torch.float64) for shape in ((4, 3), (5,))]
    pairs = [
        (
            lambda p: AdamP(p, lr=0.03, weight_decay=0.3, delta=0.0),
            lambda p: torch.optim.AdamW(p, 0.03, weight_decay=0.3),
        ),
        (lambda p: SGDP(p, 0.03, 0.8, delta=0.0), lambda p: torch.optim.SGD(p, 0.03, 0.8)),
        (
            lambda p: SGDP(p, 0.03, 0.8, nesterov=True, delta=0.0),
            lambda p: torch.optim.SGD(p, 0.03, 0.8, nesterov=True),
        ),
    ]
    gradients = quadratic(((4, 3), (5,)), condition=10.0)
    for ours, theirs in pairs:
        a, b = ([nn.Parameter(p.clone()) for p in first] for _ in range(2))
        one, two = ours(a), theirs(b)
        for step in range(50):
            torch_gradients(a, gradients, step)
            torch_gradients(b, gradients, step)
            one.step()
            two.step()
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def of_direction(w: Tensor, c: Tensor) -> Tensor:
    """A loss that does not change with the norms of the rows of w."""
    return -(w * c).sum(1).div(w.norm(dim=1)).sum()


@pytest.mark.parametrize("rows", [1, 5])
def test_a_scale_invariant_weight_moves_at_right_angles_to_itself(rows: int) -> None:
    w = nn.Parameter(torch.from_numpy(np.random.default_rng(3).normal(size=(rows, 7))))
    c = torch.from_numpy(np.random.default_rng(4).normal(size=(rows, 7)))
    optimizer = SGDP([w], lr=0.2, momentum=0.9, eps=1e-16)
    for _ in range(40):
        before = w.detach().clone()
        w.grad = torch.autograd.grad(of_direction(w, c), w)[0]
        optimizer.step()
        moved = w.detach() - before
        torch.testing.assert_close((moved * before).sum(1), torch.zeros(rows, dtype=w.dtype), rtol=0, atol=1e-13)
        torch.testing.assert_close(
            w.detach().square().sum(1), before.square().sum(1) + moved.square().sum(1), rtol=1e-13, atol=0
        )


def test_the_norm_of_a_scale_invariant_weight_grows_less_than_with_plain_momentum() -> None:
    start = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 9)))
    c = torch.from_numpy(np.random.default_rng(6).normal(size=(2, 9)))
    norms = []
    for make in (lambda p: SGDP(p, 0.3, 0.9), lambda p: torch.optim.SGD(p, 0.3, 0.9)):
        w = nn.Parameter(start.clone())
        optimizer = make([w])
        for _ in range(60):
            w.grad = torch.autograd.grad(of_direction(w, c), w)[0]
            optimizer.step()
        norms.append(float(w.detach().norm()))
    assert norms[0] < 0.9 * norms[1]


def test_projected_weights_decay_by_the_ratio() -> None:
    w = nn.Parameter(torch.tensor([[3.0, 0.0], [0.0, 2.0]], dtype=torch.float64))
    w.grad = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)  # at right angles to the rows
    SGDP([w], lr=0.5, weight_decay=0.4, wd_ratio=0.25).step()
    torch.testing.assert_close(w.detach(), torch.tensor([[2.85, -0.5], [-0.5, 1.9]], dtype=torch.float64))


@pytest.mark.parametrize("delta", [0.1, 1.5])
def test_stacked_peers_go_the_way_of_separate_ones(delta: float) -> None:
    assert_stacks(AdamP, {"lr": 0.05, "weight_decay": 0.1, "delta": delta})
    assert_stacks(AdamP, {"lr": 0.05, "delta": delta, "nesterov": True})
    assert_stacks(SGDP, {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "delta": delta})


def test_state_is_two_numbers_a_weight_for_adamp_and_one_for_sgdp() -> None:
    for cls, options, numbers in ((AdamP, {}, 2), (SGDP, {"momentum": 0.9}, 1), (SGDP, {}, 0)):
        ps = [nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(5))]
        optimizer = cls(ps, lr=0.1, **options)  # type: ignore[arg-type]
        for p in ps:
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert optimizer.state_bytes() == 4 * numbers * 17


@pytest.mark.parametrize("nesterov", [False, True])
def test_vectors_are_stepped_the_same_when_compiled(nesterov: bool) -> None:
    for cls, options in ((AdamP, {"betas": (0.8, 0.99)}), (SGDP, {"momentum": 0.9, "dampening": 0.2})):
        runs = []
        for compiled in (False, True):
            p = nn.Parameter(torch.linspace(-1, 2, 200))
            optimizer = cls([p], lr=0.05, weight_decay=0.1, nesterov=nesterov, compile=compiled, **options)  # type: ignore[arg-type]
            for step in range(20):
                p.grad = p.detach() * torch.linspace(0.1, 1, 200) + 0.01 * step
                optimizer.step()
            runs.append(p.detach())
        torch.testing.assert_close(runs[1], runs[0], rtol=1e-5, atol=1e-6)


def test_nesterovs_scaling_is_one_loop_with_one_root() -> None:
    assert source(Plan((NesterovScaling(),), (3,)), torch.float32)[0].count("std::sqrt") == 1


def test_the_learning_rate_of_sgdp_must_be_given() -> None:
    with pytest.raises(TypeError, match="lr"):
        SGDP([nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="lr"):
        SGDP.rule()


@pytest.mark.parametrize(("name", "value"), [("delta", -0.1), ("wd_ratio", float("nan")), ("eps", -1.0)])
def test_values_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        AdamP([nn.Parameter(torch.ones(1))], **{name: value})  # type: ignore[arg-type]
