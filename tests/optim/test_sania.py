"""SANIA against its restatement and the closed form of one step, and its invariance to the scale of the inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim import SANIA, CoordinateClip, WeightDecay, chain
from shoal.optim.core.curvature import signs
from shoal.tensors.random import key
from tests.optim.following import (
    NETWORK_SHAPES,
    follow,
    network,
    network_loss,
    quadratic,
    quadratic_loss,
)
from tests.restatements.optimizers import sania as restated

KINDS = ("adagrad-sqr", "adagrad", "adam-sqr", "adam")


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.floats(0.5, 0.999),
    st.sampled_from([0.0, 1e-6, 0.1]),
    st.floats(-1.0, 2.0),
    st.floats(1.0, 1e4),
)
def test_sania_goes_the_restated_way(kind: str, beta2: float, eps: float, lb: float, condition: float) -> None:
    """The loss falls below the bound on some of these ways."""
    follow(
        lambda p: SANIA(p, preconditioner=kind, beta2=beta2, eps=eps, lb=lb),
        lambda p: restated.SANIA(
            p,
            kind.replace("-", "_"),  # type: ignore[arg-type]
            beta2=beta2,
            eps=eps,
            lower_bound=lb,
        ),
        quadratic(condition=condition),
        losses=quadratic_loss(condition=condition),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_sania_trains_a_network_the_restated_way(kind: str) -> None:
    follow(
        lambda p: SANIA(p, preconditioner=kind),
        lambda p: restated.SANIA(p, kind.replace("-", "_")),  # type: ignore[arg-type]
        network(),
        shapes=NETWORK_SHAPES,
        losses=network_loss(),
    )


def test_a_loss_below_its_bound_moves_nothing() -> None:
    x = nn.Parameter(torch.ones(3))
    x.grad = torch.ones(3)
    SANIA([x], lb=0.5).step(loss=0.4)
    assert torch.equal(x, torch.ones(3))


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(41)
    X = torch.randn(300, 15, generator=random, dtype=torch.float64)
    y = (X @ torch.randn(15, generator=random, dtype=torch.float64) > 0).double() * 2 - 1
    return X, y


def losses(X: torch.Tensor, y: torch.Tensor, optimizer: type[torch.optim.Optimizer], **chosen: object) -> list[float]:
    """Losses of logistic regression on batches, and in the end on all."""
    w = nn.Parameter(torch.zeros(X.shape[1], dtype=torch.float64))
    made = optimizer([w], **chosen)  # type: ignore[call-arg, arg-type]
    random, found = torch.Generator().manual_seed(5), []
    for _ in range(150):
        rows = torch.randint(len(X), (25,), generator=random)

        def closure(rows: torch.Tensor = rows) -> torch.Tensor:
            made.zero_grad()
            loss = nn.functional.softplus(-y[rows] * (X[rows] @ w)).mean()
            loss.backward()
            return loss

        found.append(float(made.step(closure)))  # type: ignore[arg-type]
    return [*found, float(nn.functional.softplus(-y * (X @ w)).mean())]


@pytest.mark.parametrize("kind", ["adagrad-sqr", "adam-sqr"])
def test_without_roots_and_floor_the_scale_of_inputs_does_not_matter(kind: str) -> None:
    X, y = problem()
    scales = torch.exp(torch.linspace(-6.0, 6.0, 15, dtype=torch.float64))
    plain, scaled = (losses(x, y, SANIA, preconditioner=kind, eps=0.0) for x in (X, X * scales))
    np.testing.assert_allclose(plain, scaled, rtol=1e-7)
    assert not np.allclose(
        losses(X, y, torch.optim.Adam, lr=0.1), losses(X * scales, y, torch.optim.Adam, lr=0.1), rtol=0.1
    )


def test_it_learns_without_a_rate() -> None:
    X, y = problem()
    assert losses(X, y, SANIA, eps=0.0)[-1] < 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gap", [0.01, 5.0])
def test_the_step_is_the_closed_form(kind: str, gap: float) -> None:
    """Over two tensors together: below the bound of the model lambda = 1 - sqrt(1 - 2 gap / q), above it 1."""
    random = np.random.default_rng(9)
    x, eps, beta2, lb = random.normal(size=7), 1e-3, 0.9, -0.5
    parts = [nn.Parameter(torch.from_numpy(part.copy())) for part in (x[:3], x[3:])]
    optimizer = SANIA(parts, preconditioner=kind, eps=eps, beta2=beta2, lb=lb)
    v = np.zeros(7)
    for t in range(1, 6):
        g = random.normal(size=7)
        for p, part in zip(parts, (g[:3], g[3:]), strict=True):
            p.grad = torch.from_numpy(part.copy())
        optimizer.step(loss=lb + gap)
        v = v + g * g if kind.startswith("adagrad") else beta2 * v + (1 - beta2) * g * g
        B = v if kind.startswith("adagrad") else v / (1 - beta2**t)
        B = np.maximum(B, eps)
        B = B if kind.endswith("-sqr") else np.sqrt(B)
        q = float(g @ (g / B))
        length = 1.0 - np.sqrt(1.0 - 2.0 * gap / q) if 2.0 * gap <= q else 1.0
        x = x - length * g / B
        np.testing.assert_allclose(torch.cat(parts).detach().numpy(), x, rtol=1e-12)


CURVED = ["hutchinson", "newton"]


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("kind", CURVED)
def test_hutchinson_and_newton_go_the_way_of_the_restatement(kind: str, eps: float) -> None:
    """With the Hessian that torch writes out, over two tensors; for Newton eps is added to it."""
    X, y = problem()
    parts = [nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (10, 5)]
    ours = SANIA(parts, preconditioner=kind, eps=eps, beta2=0.9, cg_steps=60, seed=2)
    theirs = restated.SANIA([p.detach().numpy() for p in parts], kind, beta2=0.9, eps=eps)  # type: ignore[arg-type]
    seeds = [torch.tensor(key(2, "optimizer", i)) for i in range(2)]
    for step in range(6):
        rows = torch.arange(step * 40, step * 40 + 40)

        def loss(w: torch.Tensor, rows: torch.Tensor = rows) -> torch.Tensor:
            return nn.functional.softplus(-y[rows] * (X[rows] @ w)).mean()

        w = torch.cat([p.detach() for p in parts]).requires_grad_()
        value = loss(w)
        (g,) = torch.autograd.grad(value, w)
        H = torch.autograd.functional.hessian(loss, w.detach())
        z = torch.cat([signs(s, step + 1, (n,), torch.float64) for s, n in zip(seeds, (10, 5), strict=True)])
        ours.step(loss=loss(torch.cat(parts)))
        theirs.step(
            [x.numpy() for x in g.split([10, 5])],
            float(value.detach()),
            products=[x.numpy() for x in (z * (H @ z)).split([10, 5])],
            hessian=(H + eps * torch.eye(15, dtype=torch.float64)).numpy(),
        )
        for p, q in zip(parts, theirs.params, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), q, rtol=1e-7, atol=1e-9)


def test_newton_does_not_see_a_linear_map_of_the_inputs() -> None:
    X, y = problem()
    Q = torch.linalg.qr(torch.randn(15, 15, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    ways = {}
    for kind in ("newton", "adagrad-sqr"):
        found = []
        for A in (X, X @ (Q * torch.logspace(0, 1, 15, dtype=torch.float64)) @ Q.T):
            w = nn.Parameter(torch.zeros(15, dtype=torch.float64))
            optimizer, losses = SANIA([w], preconditioner=kind, eps=0.0, cg_steps=100), []
            for step in range(8):
                rows = torch.arange(100) + 20 * step
                loss = nn.functional.softplus(-y[rows] * (A[rows] @ w)).mean()
                losses.append(float(loss.detach()))
                if kind != "newton":
                    w.grad = None
                    loss.backward()
                optimizer.step(loss=loss)
            found.append(losses)
        ways[kind] = float(np.abs(np.subtract(*found)).max())
    assert ways["newton"] < 1e-8
    assert ways["adagrad-sqr"] > 1e-2


def test_newtons_direction_stops_at_negative_curvature() -> None:
    """f = (a^2 - b^2) / 2: along the gradient (3, 1) the curvature is 8 / 10; the next direction has none."""
    p = nn.Parameter(torch.tensor([3.0, -1.0], dtype=torch.float64))
    optimizer = SANIA([p], preconditioner="newton", eps=0.0, lb=-1e9)
    optimizer.step(loss=0.5 * (p[0] ** 2 - p[1] ** 2))
    g = torch.tensor([3.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(p.detach(), torch.tensor([3.0, -1.0]).double() - 10.0 / 8.0 * g, rtol=1e-12, atol=0)
    q = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))  # none at all: the gradient itself
    SANIA([q], preconditioner="newton", eps=0.0, lb=-1e9).step(loss=-0.5 * q.square().sum())
    assert float(q) == 2.0


@pytest.mark.parametrize("other", [{"cg_steps": 3}, {"eps": 0.5}])
def test_one_newton_direction_has_one_setting(other: dict[str, float]) -> None:
    ps = [nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2)]
    groups = [{"params": ps[:1]}, {"params": ps[1:], **other}]
    optimizer = SANIA(groups, preconditioner="newton", cg_steps=5)
    with pytest.raises(ValueError, match=r"param_groups: got cg_steps=\d, eps=.* and .* for one Newton direction"):
        optimizer.step(loss=sum(p.square().sum() for p in ps))
    assert all(p.tolist() == [1.0, 2.0] for p in ps)


def test_newtons_direction_behind_a_changed_gradient_is_refused() -> None:
    w = nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))

    def loss() -> torch.Tensor:
        return (torch.arange(1.0, 4.0, dtype=torch.float64) * w.square()).sum()

    message = "links: got a changed gradient for Newton's direction, which is of the gradient as it came"
    with pytest.raises(ValueError, match=message):
        CoordinateClip(SANIA([w], preconditioner="newton"), rho=1.0).step(loss=loss())
    with pytest.raises(ValueError, match=message):
        chain(WeightDecay(0.1), SANIA.rule(preconditioner="newton"))([w]).step(loss=loss())
    assert w.tolist() == [1.0, 2.0, 3.0]
    CoordinateClip(SANIA([w], preconditioner="newton", eps=0.0, lb=-1e9), rho=0.0).step(loss=loss())
    torch.testing.assert_close(w.detach(), torch.zeros_like(w), rtol=0, atol=1e-9)


def test_a_number_has_newtons_direction_as_a_vector_of_one_has() -> None:
    number, vector = (nn.Parameter(torch.full(shape, 2.0, dtype=torch.float64)) for shape in ((), (1,)))
    for p in (number, vector):
        optimizer = SANIA([p], preconditioner="newton", eps=0.0)
        for _ in range(3):
            optimizer.step(loss=(p**4).sum())
    assert torch.equal(number, vector[0])
    assert float(number.detach()) < 2.0
