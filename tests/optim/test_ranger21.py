"""Ranger21 against its restatement, and its parts one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.core import Param, Rule, Transform
from shoal.optim.ranger21 import Centralised, ClippedUnits, PositiveNegative, Ranger21, SlowWeights, explore_exploit
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
from tests.restatements.optimizers import ranger21 as restated

betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999))


@settings(max_examples=10)
@given(
    st.floats(1e-4, 0.1),
    st.floats(0, 2),
    betas,
    st.floats(1e-10, 1e-3),
    st.sampled_from([0.0, 1e-4, 0.3]),
    st.sampled_from([1e-2, 1e3]),
    st.integers(1, 7),
    st.floats(0, 0.9),
    st.integers(20, 100),
)
def test_ranger21_goes_the_restated_way(
    lr: float,
    beta0: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    tau: float,
    k: int,
    beta_lookahead: float,
    t_max: int,
) -> None:
    chosen = {"lr": lr, "beta0": beta0, "betas": betas, "eps": eps, "weight_decay": weight_decay, "t_max": t_max}
    chosen |= {"tau_clipping": tau, "k_lookahead": k, "beta_lookahead": beta_lookahead}
    follow(
        lambda p: Ranger21(p, **chosen),  # type: ignore[arg-type]
        lambda p: restated.Ranger21(p, **chosen),  # type: ignore[arg-type]
        missing(quadratic()),
        rates=lambda step: lr / (1 + step % 3),
    )


def test_ranger21_trains_a_network_the_restated_way() -> None:
    chosen = {"lr": 0.05, "t_max": 80, "t_warmup": 10.0, "t_warmdown": 30.0}
    follow(
        lambda p: Ranger21(p, **chosen),  # type: ignore[arg-type]
        lambda p: restated.Ranger21(p, **chosen),  # type: ignore[arg-type]
        network(),
        shapes=NETWORK_SHAPES,
    )


def test_without_its_parts_it_is_adam() -> None:
    """beta0 = beta1 = 0, vectors, growing gradients (whose second moment is its own maximum): only the rate is left."""
    a, b = ([nn.Parameter(torch.from_numpy(p)) for p in starts(((7,), (3,)))] for _ in range(2))
    options = {"weight_decay": 0.0, "k_lookahead": 10**9, "tau_clipping": 1e12, "beta0": 0.0, "betas": (0.0, 0.97)}
    ours = Ranger21(a, lr=0.1, t_max=90, t_warmup=20, **options)  # type: ignore[arg-type]
    theirs = torch.optim.Adam(b, lr=0.1, betas=(0.0, 0.97))
    for step in range(90):
        for p, q in zip(a, b, strict=True):
            p.grad = 1.1**step * torch.linspace(-1, 2, p.numel(), dtype=torch.float64)
            q.grad = p.grad.clone()
        for group in theirs.param_groups:
            group["lr"] = explore_exploit(step + 1.0, 0.1, beta2=0.97, t_max=90, warmup=20, warmdown=0.28 * 90)
        ours.step()
        theirs.step()
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_the_rate_goes_up_in_a_line_stays_and_goes_down_to_zero() -> None:
    rate = [explore_exploit(float(t), 0.5, beta2=0.999, t_max=1000, warmup=220, warmdown=280) for t in range(1, 1003)]
    rises = np.diff([float(r) for r in rate])
    assert rises[:218] == pytest.approx(0.5 / 220)
    assert set(rate[220:720]) == {0.5}
    assert rises[720:999] == pytest.approx(-0.5 / 280)
    assert rate[999:] == [0.0, 0.0, 0.0]
    short = [explore_exploit(float(t), 1.0, beta2=0.9, t_max=1000, warmup=220, warmdown=280) for t in range(1, 25)]
    assert short == pytest.approx([min(1.0, t / 20) for t in range(1, 25)])  # 2 / (1 - beta2) steps are enough


def stepped(link: Transform, p: torch.Tensor, g: torch.Tensor, steps: int = 1) -> torch.Tensor:
    """The parameter after some steps of rate 1 with one gradient and one transform."""
    rule, params = Rule("", 1.0, (link,)), [Param("w", tuple(p.shape))]
    p = p.clone()
    state = rule.views(rule.memory({"w": p}), params)
    for t in range(steps):
        rule.step(params, [p], [g], state, t + 1.0, 1.0)
    return p


def test_clipping_shortens_long_units_only() -> None:
    w = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    g = torch.tensor([[6.0, 8.0], [0.6, 0.8], [0.03, 0.04]], dtype=torch.float64)
    taken = w - stepped(ClippedUnits(0.1, 0.5), w, g)
    expected = torch.tensor([[0.3, 0.4], [0.03, 0.04], [0.03, 0.04]], dtype=torch.float64)
    torch.testing.assert_close(taken, expected, rtol=1e-12, atol=1e-15)


def test_centralised_steps_leave_the_means_of_units_and_vectors_alone() -> None:
    p, _, q, _ = (torch.from_numpy(x) for x in starts())
    for w in (p, q):
        g = torch.from_numpy(np.random.default_rng(1).normal(size=w.shape))
        axes = tuple(range(1, w.dim()))
        torch.testing.assert_close(stepped(Centralised(), w, g).mean(axes), w.mean(axes), rtol=1e-12, atol=1e-12)
    vector = torch.ones(4, dtype=torch.float64)
    assert torch.equal(stepped(Centralised(), vector, vector), torch.zeros_like(vector))


def test_slow_weights_are_averaged_every_k_steps() -> None:
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    path = [float(stepped(SlowWeights(3, 0.75), zero, one, steps)[0]) for steps in range(1, 8)]
    assert path == pytest.approx([-1, -2, -0.75, -1.75, -2.75, -1.5, -2.5])


def test_units_decay_towards_norm_one() -> None:
    """Without a gradient in its own second moment's way: g is tiny, its scale is that of every v."""
    w = torch.tensor([[2.0, 0.0], [0.0, 0.5], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    core = PositiveNegative(0.0, 0.0, 0.0, 0.0, 0.01, 1e9, 1e-3, 1.0)
    moved = w - stepped(core, w, torch.full_like(w, 0.5)) - 1.0  # -1: the step itself, g / sqrt(v)
    expected = 0.01 / 0.5 * torch.tensor([[1.0, 0.0], [0.0, -0.5], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-15)


def test_all_tensors_share_the_mean_of_their_second_moments() -> None:
    """The decay of one depends on the gradient of the other, and nothing else does."""
    moves = []
    for factor in (1.0, 10.0):
        for weight_decay in (0.0, 0.5):
            a, b = (nn.Parameter(torch.full((2, 2), 3.0, dtype=torch.float64)) for _ in range(2))
            a.grad = torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=torch.float64)
            b.grad = factor * a.grad
            Ranger21([a, b], lr=0.1, t_max=10, weight_decay=weight_decay, tau_clipping=1e9).step()
            moves.append(a.detach())
    small, small_decayed, large, large_decayed = moves
    assert torch.equal(small, large)
    ratio = (small - small_decayed) / (large - large_decayed)
    torch.testing.assert_close(ratio, torch.full_like(ratio, np.sqrt(101 / 2)), rtol=1e-9, atol=0)


def test_zero_gradients_move_nothing() -> None:
    w = nn.Parameter(torch.tensor([[2.0, 1.0]], dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    Ranger21([w], t_max=10, weight_decay=0.5).step()
    assert w.tolist() == [[2.0, 1.0]]


@pytest.mark.parametrize("tau", [0.01, 100.0])
def test_stacked_peers_go_the_way_of_separate_ones(tau: float) -> None:
    assert_stacks(Ranger21, {"lr": 0.05, "t_max": 15, "k_lookahead": 3, "weight_decay": 0.1, "tau_clipping": tau})


def test_state_is_five_numbers_a_weight() -> None:
    ps = [nn.Parameter(torch.from_numpy(p).float()) for p in starts()]
    optimizer = Ranger21(ps, t_max=10)
    torch_gradients(ps, quadratic(), 0)
    optimizer.step()
    assert optimizer.state_bytes() == 4 * 5 * sum(int(np.prod(shape)) for shape in SHAPES)


def test_the_length_of_the_training_must_be_given() -> None:
    with pytest.raises(TypeError, match="t_max"):
        Ranger21([nn.Parameter(torch.ones(1))])  # type: ignore[call-arg]
    for name, value in (("t_max", 0), ("t_warmup", 0.0), ("k_lookahead", 0)):
        with pytest.raises(ValueError, match=f"^{name}: "):
            Ranger21([nn.Parameter(torch.ones(1))], **{"t_max": 10, name: value})  # type: ignore[arg-type]
