"""SOAP against its restatement and pytorch-optimizer's equations, its limits, its invariance and its stacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim import kronecker
from shoal.optim.core import Param
from shoal.optim.kronecker import LONG, add_gram_, along, arranged, merged, orthonormal, symmetric, unfolded
from shoal.optim.soap import SOAP
from tests.optim.following import Array, follow, missing, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import soap as restated

FULL_RANK = ((5, 5), (4, 4), (4, 4), (5,), (3, 2, 2), (2, 3, 2, 2), ())
"""Along each side the first gradient has full rank, so that there is one basis but for signs."""
DEFICIENT = ((6, 4), (3, 5), (3, 5), (5,), (2, 7, 3))
rates = st.floats(1e-4, 0.05)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.99))


@settings(max_examples=8)
@given(rates, betas, st.floats(1e-10, 1e-2), st.integers(1, 7), st.sampled_from([2, 3, 10000]), st.floats(0, 0.3))
def test_it_goes_the_restated_way(
    lr: float, betas: tuple[float, float], eps: float, frequency: int, largest: int, decay: float
) -> None:
    both: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": decay}
    follow(
        lambda p: SOAP(p, **both, precondition_frequency=frequency, max_precond_dim=largest),
        lambda p: restated.SOAP(p, **both, frequency=frequency, max_dim=largest),
        missing(quadratic(FULL_RANK)),
        shapes=FULL_RANK,
        steps=20,
        rtol=1e-7,
    )


def test_it_goes_the_restated_way_from_any_first_basis() -> None:
    """Where LAPACK may choose, the restatement is given the basis that was chosen."""
    first = starts(DEFICIENT)
    ours = [nn.Parameter(torch.from_numpy(p.copy())) for p in first]
    optimizer, gradients = SOAP(ours, lr=0.01, precondition_frequency=2), quadratic(DEFICIENT)
    torch_gradients(ours, gradients, 0)
    optimizer.step()
    bases: list[list[Array | None]] = [
        [optimizer.state[p][f"Q{i}"].numpy().copy() if p.dim() > 1 else None for i in range(p.dim())] for p in ours
    ]
    theirs = restated.SOAP(first, lr=0.01, frequency=2, bases=bases)
    theirs.step(gradients(first, 0))
    for step in range(1, 30):
        torch_gradients(ours, gradients, step)
        theirs.step([p.grad.numpy() for p in ours])  # type: ignore[union-attr]
        optimizer.step()
        for p, expected in zip(ours, theirs.params, strict=True):
            assert np.abs(p.detach().numpy() - expected).max() <= 1e-8


def test_long_sides_go_the_restated_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their factors are kept below the diagonal alone, in panels."""
    monkeypatch.setattr(kronecker, "LONG", 4)
    monkeypatch.setattr(kronecker, "PANEL", 2)
    follow(
        lambda p: SOAP(p, lr=0.01, precondition_frequency=3),
        lambda p: restated.SOAP(p, lr=0.01, frequency=3),
        quadratic(FULL_RANK),
        shapes=FULL_RANK,
        steps=25,
        rtol=1e-8,
    )


def test_without_bases_it_is_adam_one_step_late() -> None:
    """Torch's AdamW with decay after the step, eps beside the uncorrected root, and the first gradient left out."""
    shapes = ((4, 3), (5,))
    ours, theirs = ([nn.Parameter(torch.from_numpy(p)) for p in starts(shapes)] for _ in range(2))
    late = SOAP(ours, lr=0.01, eps=0.0, weight_decay=0.0, max_precond_dim=1)
    adam = torch.optim.Adam(theirs, lr=0.01, betas=(0.95, 0.95), eps=0.0)
    gradients = quadratic(shapes)
    for step in range(20):
        torch_gradients(ours, gradients, step)
        late.step()
        if step:
            torch_gradients(theirs, gradients, step)
            adam.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def rotated_runs(make: Callable[..., torch.optim.Optimizer], seed: int) -> float:
    """How far apart W ends and U W V^T, turned back."""
    random = torch.Generator().manual_seed(seed)
    A, Y, W = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in ((20, 6), (20, 6), (6, 6)))
    U, V = (torch.linalg.qr(torch.randn(6, 6, generator=random, dtype=torch.float64))[0] for _ in range(2))
    ends = []
    for left, right in ((torch.eye(6, dtype=torch.float64),) * 2, (U, V)):
        p = nn.Parameter(left @ W @ right.mT)
        optimizer = make([p], lr=0.02)
        for _ in range(40):
            optimizer.zero_grad()
            (A @ (left.mT @ p @ right) - Y).square().sum().backward()
            optimizer.step()
        ends.append(left.mT @ p.detach() @ right)
    return float((ends[0] - ends[1]).abs().max())


@pytest.mark.parametrize("seed", range(3))
def test_it_turns_with_the_coordinates(seed: int) -> None:
    assert rotated_runs(partial(SOAP, precondition_frequency=1), seed) <= 1e-7  # rounding, over gaps of eigenvalues
    assert rotated_runs(torch.optim.Adam, seed) >= 0.1


def test_merged_sides_are_those_of_the_matrix() -> None:
    """A convolution of merged sides goes the way of the matrix it is."""
    kernel, matrix = (nn.Parameter(torch.from_numpy(starts(((4, 2, 2),))[0]).reshape(s)) for s in ((4, 2, 2), (4, 4)))
    both = [SOAP([kernel], merge_dims=True, max_precond_dim=4), SOAP([matrix], max_precond_dim=4)]
    random = torch.Generator().manual_seed(0)
    for _ in range(15):
        kernel.grad = torch.randn(4, 2, 2, generator=random, dtype=torch.float64)
        matrix.grad = kernel.grad.reshape(4, 4).clone()
        for optimizer in both:
            optimizer.step()
    assert torch.equal(kernel.view(4, 4), matrix)


def test_a_first_step_moves_nothing_and_begins_the_factors() -> None:
    p, v = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2))
    optimizer = SOAP([p, v], weight_decay=0.5)
    p.grad, v.grad = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]]), torch.ones(2)
    optimizer.step()
    assert torch.equal(p, torch.ones(3, 2))
    assert torch.equal(v, torch.ones(2))
    state = optimizer.state[p]
    torch.testing.assert_close(state["L0"], 0.05 * p.grad @ p.grad.T)
    torch.testing.assert_close(state["Q1"] @ state["Q1"].T, torch.eye(2))
    values = torch.diag(state["Q0"].T @ state["L0"] @ state["Q0"])
    assert torch.equal(values.sort(descending=True).values, values)


def test_shampoo_beta_is_the_factors_own() -> None:
    p = nn.Parameter(torch.zeros(2, 2))
    optimizer = SOAP([p], shampoo_beta=0.5)
    for _ in range(2):
        p.grad = torch.eye(2)
        optimizer.step()
    torch.testing.assert_close(optimizer.state[p]["L0"], 0.75 * torch.eye(2))


@pytest.mark.parametrize("wild", [1e20, 3e38, float("inf"), float("nan")])
@pytest.mark.parametrize("at", [0, 4])
def test_a_gradient_whose_squares_are_too_large_counts_as_zero(wild: float, at: int) -> None:
    """Of its tensor alone, also where it shares a stack with another one of its shape."""
    ours, theirs = ([nn.Parameter(torch.zeros(4, 3)) for _ in range(2)] for _ in "ab")
    both = [SOAP(ps, lr=0.1, precondition_frequency=2) for ps in (ours, theirs)]
    random = torch.Generator().manual_seed(0)
    for step in range(12):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = torch.randn(4, 3, generator=random)
            q.grad = p.grad.clone()
            if step == at and i == 1:
                p.grad[2, 1] = wild
                q.grad.zero_()
        for optimizer in both:
            optimizer.step()
        for p, q in zip(ours, theirs, strict=True):
            assert torch.equal(p, q)
            assert bool(p.isfinite().all())
    assert all(float(p.detach().abs().max()) > 0.1 for p in ours)


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_a_basis_stays_where_its_factor_is_not_finite(wrong: float) -> None:
    p = nn.Parameter(torch.zeros(4, 3))
    optimizer, state = SOAP([p], precondition_frequency=2), {}
    random = torch.Generator().manual_seed(0)
    for step in range(8):
        p.grad = torch.randn(4, 3, generator=random)
        if step == 3:
            state = optimizer.state[p]
            basis = state["Q0"].clone()
            state["L0"][1, 2] = wrong
        optimizer.step()
    assert torch.equal(state["Q0"], basis)
    torch.testing.assert_close(state["Q1"] @ state["Q1"].mT, torch.eye(3))
    assert all(bool(x.isfinite().all()) for x in (p, state["M"], state["V"]))


# -- stacks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", [1, 3])
def test_stacked_peers_go_their_own_ways(frequency: int) -> None:
    assert_stacks(SOAP, {"precondition_frequency": frequency, "weight_decay": 0.1})


@pytest.mark.parametrize("apart", [False, True], ids=["at one step", "at different steps"])
def test_rows_of_a_stack_go_the_way_of_a_row_alone(apart: bool) -> None:
    """However many peers are stacked, whatever their rates, and whichever of them are at the same step."""
    rule, params = SOAP.rule(precondition_frequency=3), [Param("a", (9, 4)), Param("b", (9, 4))]
    random = torch.Generator().manual_seed(0)
    stacked = [torch.randn(4, 9, 4, generator=random) for _ in params]
    alone = [[p[i].clone() for p in stacked] for i in range(4)]
    memories = [rule.memory({"a": own[0], "b": own[1]}) for own in alone]
    memory = {key: torch.stack([m[key] for m in memories]) for key in memories[0]}
    rates, before = torch.tensor([0.01, 0.02, 0.01, 0.04], dtype=torch.float64), torch.tensor([0, 1, 1, 0]) * apart
    for step in range(1, 10):
        gradients = [torch.randn(4, 9, 4, generator=random) for _ in params]
        rule.step(params, stacked, gradients, rule.views(memory, params), (before + step).double(), rates)
        for i in range(4):
            own, views = [g[i] for g in gradients], rule.views(memories[i], params)
            rule.step(params, alone[i], own, views, float(before[i] + step), float(rates[i]))
    for i in range(4):
        for p, q in zip(stacked, alone[i], strict=True):
            torch.testing.assert_close(p[i], q, rtol=1e-6, atol=1e-7)  # rates are tensors, or numbers


def test_equal_shapes_together_have_the_bits_of_each_alone() -> None:
    shapes = {"a": (6, 4), "b": (6, 4), "c": (6, 4)}
    together = {
        n: nn.Parameter(torch.from_numpy(p).float()) for n, p in zip(shapes, starts(list(shapes.values())), strict=True)
    }
    alone = {n: nn.Parameter(p.detach().clone()) for n, p in together.items()}
    optimizers = [
        SOAP(together.values(), precondition_frequency=2),
        *(SOAP([p], precondition_frequency=2) for p in alone.values()),
    ]
    random = torch.Generator().manual_seed(0)
    for _ in range(9):
        for name in shapes:
            together[name].grad = torch.randn(6, 4, generator=random)
            alone[name].grad = together[name].grad.clone()  # type: ignore[union-attr]
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(together[name], alone[name]) for name in shapes)


# -- matrices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4), (2, 3, 2, 5)], ids=str)
def test_products_along_a_side_and_grams_are_einsums(shape: tuple[int, ...]) -> None:
    x = torch.randn(3, *shape, dtype=torch.float64)
    letters = "abcd"[: len(shape)]
    for i, d in enumerate(shape):
        matrix = torch.randn(3, d, d, dtype=torch.float64)
        turned = letters.replace(letters[i], "z")
        expected = torch.einsum(f"n{letters[i]}z,n{letters}->n{turned}", matrix, x)
        torch.testing.assert_close(along(x, matrix, i), expected)
        total = torch.einsum(f"n{letters},n{turned}->n{letters[i]}z", x, x)
        kept = matrix.clone()
        add_gram_(kept, x, i, 0.5, 2.0)
        torch.testing.assert_close(kept, 0.5 * matrix + 2.0 * total)
        assert unfolded(x, i).shape == (3, d, x[0].numel() // d)


def test_a_long_gram_is_whole_once_it_is_read() -> None:
    d = LONG + 100
    x, total = torch.randn(2, d, 3, dtype=torch.float64), torch.zeros(2, d, d, dtype=torch.float64)
    for _ in range(2):
        add_gram_(total, x, 0, 0.5, 1.0)
    torch.testing.assert_close(symmetric(total), 1.5 * x @ x.mT)


def test_slices_are_arranged_for_each_of_a_stack() -> None:
    x, order = torch.randn(2, 3, 4), torch.tensor([[2, 0, 1, 3], [3, 2, 1, 0]])
    for part, own, mine in zip(arranged(x, order, 1), order, x, strict=True):
        assert torch.equal(part, mine[:, own])
    assert torch.equal(arranged(x[:1], order[:1], 1)[0], x[0][:, order[0]])


def test_orthonormal_factors_are_those_of_qr() -> None:
    x = torch.randn(3, 6, 6, dtype=torch.float64)
    assert torch.equal(orthonormal(x), torch.linalg.qr(x)[0])


@given(st.lists(st.integers(1, 12), max_size=5), st.integers(1, 40))
def test_merged_sides_keep_the_number_of_entries_and_the_limit(sides: list[int], largest: int) -> None:
    found = merged(tuple(sides), largest)
    assert np.prod(found) == np.prod(sides)
    assert all(side <= max(largest, *sides) for side in found) if sides else found == (1,)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("precondition_frequency", 0), ("max_precond_dim", 0), ("merge_dims", 1), ("shampoo_beta", 1.0)],
)
def test_arguments_are_checked(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got {wrong}; .* is allowed"):
        SOAP([nn.Parameter(torch.zeros(2, 2))], **{name: wrong})
