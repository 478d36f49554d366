"""Shampoo against its restatement, the roots it should be, the factor of MARS's Shampoo form, and its stacks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adam import Adam
from shoal.optim.mars import newton_schulz
from shoal.optim.shampoo import Shampoo, inverse_root
from tests.optim.following import follow, missing, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import soap as restated

SHAPES = ((6, 4), (3, 5), (3, 5), (5,), (3, 2, 2), ())


@settings(max_examples=15)
@given(
    st.floats(1e-3, 0.3),
    st.floats(1e-6, 1.0),
    st.one_of(st.none(), st.floats(0, 0.99)),
    st.floats(0, 0.95),
    st.booleans(),
)
def test_it_goes_the_restated_way(lr: float, eps: float, beta2: float | None, momentum: float, whole: bool) -> None:
    shapes = SHAPES if whole else ((5,), (6,))
    follow(
        lambda p: Shampoo(p, lr=lr, eps=eps, beta2=beta2, momentum=momentum, max_precond_dim=1200 if whole else 4),
        lambda p: restated.Shampoo(
            p, lr=lr, eps=eps, beta2=beta2, beta1=momentum, vectors="full" if whole else "diagonal"
        ),
        missing(quadratic(shapes)),
        shapes=shapes,
        steps=30,
        rtol=1e-8,
    )


def test_a_first_step_is_the_orthogonal_factor() -> None:
    """(G G^T)^(-1/4) G (G^T G)^(-1/4) = U V^T, which MARS's Shampoo form comes near by Newton-Schulz steps."""
    g = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = nn.Parameter(torch.zeros(5, 4, dtype=torch.float64))
    optimizer = Shampoo([p], lr=1.0, eps=1e-14)
    p.grad = g
    optimizer.step()
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    torch.testing.assert_close(-p.detach(), u @ v, rtol=0, atol=1e-6)
    near = u.mT @ newton_schulz(g, 1e-8) @ v.mT
    assert float((near - torch.diag(near.diag())).abs().max()) <= 1e-10
    assert 0.65 <= float(near.diag().min()) <= float(near.diag().max()) <= 1.25


@pytest.mark.parametrize("root", [2, 4, 6])
def test_roots_are_inverse(root: int) -> None:
    x = torch.randn(2, 5, 5, dtype=torch.float64)
    total = x @ x.mT
    found = inverse_root(total, root, 0.1)
    identity = torch.eye(5, dtype=torch.float64).expand(2, 5, 5)
    torch.testing.assert_close(torch.linalg.matrix_power(found, root) @ (total + 0.1 * identity), identity)
    diagonal = torch.diagonal(total, dim1=1, dim2=2)
    torch.testing.assert_close(inverse_root(diagonal, root, 0.1), (diagonal + 0.1) ** (-1 / root))


def test_roots_are_those_of_the_last_refresh() -> None:
    p = nn.Parameter(torch.zeros(3, 2))
    optimizer = Shampoo([p], precondition_frequency=3)
    seen = []
    for _ in range(7):
        p.grad = torch.randn(3, 2)
        optimizer.step()
        seen.append(optimizer.state[p]["P0"].clone())
    assert [torch.equal(a, b) for a, b in pairwise(seen)] == [True, True, False] * 2


@pytest.mark.parametrize("like", ["sgd", "adam"])
def test_a_grafted_step_has_shampoos_direction_and_the_others_length(like: str) -> None:
    shapes = ((4, 3), (5,), (2, 2, 2))
    first = starts(shapes)
    runs = {name: [nn.Parameter(torch.from_numpy(p.copy())) for p in first] for name in ("grafted", "plain", "other")}
    other: dict[str, Any] = {"sgd": lambda p: torch.optim.SGD(p, lr=1.0), "adam": lambda p: Adam(p, lr=1.0)}
    optimizers = {
        "grafted": Shampoo(runs["grafted"], lr=1.0, graft=like),  # type: ignore[arg-type]
        "plain": Shampoo(runs["plain"], lr=1.0),
        "other": other[like](runs["other"]),
    }
    gradients = quadratic(shapes)
    for step in range(6):
        moved = {}
        torch_gradients(runs["grafted"], gradients, step)
        for name, ps in runs.items():
            before = [p.detach().clone() for p in ps]
            for p, q in zip(ps, runs["grafted"], strict=True):
                p.grad = q.grad
            optimizers[name].step()
            moved[name] = [p.detach() - b for p, b in zip(ps, before, strict=True)]
        for grafted, plain, length in zip(moved["grafted"], moved["plain"], moved["other"], strict=True):
            torch.testing.assert_close(grafted, plain * (length.norm() / plain.norm()), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("wild", [1e20, 3e38, float("inf"), float("nan")])
@pytest.mark.parametrize("graft", [None, "sgd", "adam"])
@pytest.mark.parametrize("settings", [{}, {"beta2": 0.9, "momentum": 0.5}, {"max_precond_dim": 3}], ids=str)
@pytest.mark.parametrize("at", [0, 4])
def test_a_gradient_whose_squares_are_too_large_counts_as_zero(
    wild: float, graft: Any, settings: dict[str, Any], at: int
) -> None:
    """Of its tensor alone, also where it shares a stack with others of its shape."""
    ours, theirs = ([nn.Parameter(torch.zeros(4, 3)) for _ in range(2)] + [nn.Parameter(torch.zeros(5))] for _ in "ab")
    both = [Shampoo(ps, graft=graft, precondition_frequency=2, **settings) for ps in (ours, theirs)]
    random = torch.Generator().manual_seed(0)
    for step in range(9):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = torch.randn(p.shape, generator=random)
            q.grad = p.grad.clone()
            if step == at and i != 1:
                p.grad.view(-1)[1] = wild
                q.grad.zero_()
        for optimizer in both:
            optimizer.step()
        for p, q in zip(ours, theirs, strict=True):
            assert torch.equal(p, q)
            assert bool(p.isfinite().all())


@pytest.mark.parametrize("shape", [(4, 3), (5,)])
def test_of_a_sum_that_has_become_infinite_the_roots_stay(shape: tuple[int, ...]) -> None:
    """Entries of 1.5e19 have squares in float32; the sum of more than one of them has not."""
    p = nn.Parameter(torch.zeros(shape))
    optimizer = Shampoo([p], lr=1.0)
    roots = []
    for _ in range(4):
        before = p.detach().clone()
        p.grad = torch.zeros(shape)
        p.grad.view(-1)[0] = 1.5e19
        optimizer.step()
        assert float((p.detach() - before).norm()) <= 1.1
        roots.append(optimizer.state[p]["P0"].clone())
    assert not bool(optimizer.state[p]["S0"].isfinite().all())
    assert torch.equal(roots[-1], roots[-2])


@pytest.mark.parametrize("graft", [None, "sgd", "adam"])
def test_stacked_peers_go_their_own_ways(graft: str | None) -> None:
    assert_stacks(Shampoo, {"graft": graft, "precondition_frequency": 2, "momentum": 0.5, "weight_decay": 0.1})


@pytest.mark.parametrize(("name", "wrong"), [("eps", 0.0), ("beta2", 1.0), ("graft", "lamb"), ("momentum", 1.0)])
def test_arguments_are_checked(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got {wrong!r}; .* allowed"):
        Shampoo([nn.Parameter(torch.zeros(2, 2))], **{name: wrong})
