"""Laws of composition on random lenses that need not be derivatives, and the chain rule against autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal.lenses import Lens, Para, identity, lens, lens_of
from shoal.lenses.lens import add, associate, associate_back, copy, delete, first, interchange, second, swap
from shoal.lenses.para import plain
from shoal.lenses.trees import form, leaves, plus, tree_map, zero

F64 = torch.float64
seeds = st.integers(0, 10_000)
sizes = st.lists(st.integers(1, 4), min_size=5, max_size=5)
few = settings(max_examples=25, deadline=None)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def some_lens(seed: int, n: int, m: int) -> Lens:
    """R^n -> R^m whose rev is no derivative."""
    a, b, c = random(seed, m, n), random(seed + 1, n, m), random(seed + 2, n, n)
    return lens(lambda x: (a @ x).sin(), lambda x, d: (b @ d) * (c @ x).cos())


def some_para(seed: int, n: int, m: int) -> Para:
    """R^2 x R^n -> R^m."""
    both = some_lens(seed, n + 2, m)
    join = lens(lambda x: torch.cat([x[0], x[1]]), lambda x, d: (d[:2], d[2:]))
    return Para(join >> both, random(seed + 9, 2))


def assert_same(f: Lens, g: Lens, a: Any, change: Any) -> None:
    for x, y in ((f.fwd(a), g.fwd(a)), (f.rev(a, change), g.rev(a, change))):
        assert form(x) == form(y)
        assert all(torch.equal(s, t) for s, t in zip(leaves(x), leaves(y), strict=True))


@few
@given(seeds, sizes)
def test_composition_is_associative_and_has_units(seed: int, n: list[int]) -> None:
    f, g, h = (some_lens(seed + 10 * i, n[i], n[i + 1]) for i in range(3))
    a, d = random(seed + 50, n[0]), random(seed + 51, n[3])
    assert_same((f >> g) >> h, f >> (g >> h), a, d)
    assert_same(identity >> f, f, a, random(seed + 52, n[1]))
    assert_same(f >> identity, f, a, random(seed + 52, n[1]))


@few
@given(seeds, sizes)
def test_rev_of_a_composite_is_the_formula(seed: int, n: list[int]) -> None:
    f, g = some_lens(seed, n[0], n[1]), some_lens(seed + 10, n[1], n[2])
    a, d = random(seed + 50, n[0]), random(seed + 51, n[2])
    assert torch.equal((f >> g).rev(a, d), f.rev(a, g.rev(f.fwd(a), d)))
    assert torch.equal((f >> g).fwd(a), g.fwd(f.fwd(a)))


@few
@given(seeds, sizes)
def test_interchange_of_composition_and_tensor_product(seed: int, n: list[int]) -> None:
    f, g = some_lens(seed, n[0], n[1]), some_lens(seed + 10, n[1], n[2])
    h, k = some_lens(seed + 20, n[2], n[3]), some_lens(seed + 30, n[3], n[4])
    a, d = (random(seed + 50, n[0]), random(seed + 51, n[2])), (random(seed + 52, n[2]), random(seed + 53, n[4]))
    assert_same((f >> g) @ (h >> k), (f @ h) >> (g @ k), a, d)
    assert_same(identity @ identity, identity, a, a)


@few
@given(seeds, sizes)
def test_structure_is_natural(seed: int, n: list[int]) -> None:
    f, g, h = (some_lens(seed + 10 * i, n[i], n[i + 1]) for i in range(3))
    a, b, c = (random(seed + 50 + i, n[i]) for i in range(3))
    x, y, z = (random(seed + 60 + i, n[i + 1]) for i in range(3))
    assert_same(((f @ g) @ h) >> associate, associate >> (f @ (g @ h)), ((a, b), c), (x, (y, z)))
    assert_same(associate >> associate_back, identity, ((a, b), c), ((a, b), c))
    assert_same((f @ g) >> swap, swap >> (g @ f), (a, b), (y, x))
    assert_same(swap >> swap, identity, (a, b), (a, b))
    assert_same(interchange >> interchange, identity, ((a, b), (c, a)), ((a, b), (c, a)))


def test_an_unbalanced_tower_goes_forwards_once() -> None:
    """However it is bracketed: n calls of fwd, where the formula alone takes n^2 / 2."""
    calls = []
    counted = lens(lambda x: (calls.append(1), x.sin())[1], lambda x, d: d * x.cos())
    tower = counted
    for _ in range(19):
        tower = tower >> counted
    tower.rev(torch.ones(2), torch.ones(2))
    assert len(calls) == 20


@few
@given(seeds, sizes)
def test_parametrised_composition_nests_parameters_in_reverse(seed: int, n: list[int]) -> None:
    f, g, h = (some_para(seed + 10 * i, n[i], n[i + 1]) for i in range(3))
    a, d = random(seed + 50, n[0]), random(seed + 51, n[3])
    p, q, r = f.start, g.start, h.start
    left, right = (f >> g) >> h, f >> (g >> h)
    assert form(left.start) == form((r, (q, p)))
    assert torch.equal(left.fwd((r, (q, p)), a), h.fwd(r, g.fwd(q, f.fwd(p, a))))
    (dr, (dq, dp)), da = left.rev((r, (q, p)), a, d)
    ((er, eq), ep), ea = right.rev(((r, q), p), a, d)
    assert all(torch.equal(x, y) for x, y in ((dr, er), (dq, eq), (dp, ep), (da, ea)))
    b = f.fwd(p, a)
    expected_q, back = g.rev(q, b, h.rev(r, g.fwd(q, b), d)[1])
    assert torch.equal(dq, expected_q)
    assert torch.equal(dp, f.rev(p, a, back)[0])
    beside = f @ g
    pair, change = (a, random(seed + 60, n[1])), (random(seed + 61, n[1]), random(seed + 62, n[2]))
    (first_p, second_p), (first_a, second_a) = beside.rev((p, q), pair, change)
    for found, expected in zip(
        (first_p, first_a, second_p, second_a),
        (*f.rev(p, a, change[0]), *g.rev(q, pair[1], change[1])),
        strict=True,
    ):
        assert torch.equal(found, expected)


@few
@given(seeds, sizes)
def test_reparametrisation_is_functorial(seed: int, n: list[int]) -> None:
    f, r, s = some_para(seed, n[0], n[1]), some_lens(seed + 10, n[2], 2), some_lens(seed + 20, n[3], n[2])
    p, a, d = random(seed + 50, n[3]), random(seed + 51, n[0]), random(seed + 52, n[1])
    one, two = f.reparametrised(r, random(1, n[2])).reparametrised(s, p), f.reparametrised(s >> r, p)
    assert_same(one.arrow, two.arrow, (p, a), d)
    assert_same(f.reparametrised(identity, f.start).arrow, f.arrow, (f.start, a), d)


@few
@given(seeds, st.integers(1, 4))
def test_copies_sums_and_projections_are_reverse_derivatives(seed: int, n: int) -> None:
    """Against torch's vector-Jacobian products of the same maps."""
    a, b = random(seed, n), random(seed + 1, n)
    d, e = random(seed + 2, n), random(seed + 3, n)
    for ours, function, at, change in (
        (copy, lambda x: (x, x), a, (d, e)),
        (add, lambda x: x[0] + x[1], (a, b), d),
        (first, lambda x: x[0], (a, b), d),
        (second, lambda x: x[1], (a, b), d),
        (swap, lambda x: (x[1], x[0]), (a, b), (d, e)),
    ):
        assert_same(ours, lens_of(function), at, change)
    assert delete.fwd(a) == ()
    assert torch.equal(delete.rev(a, ()), torch.zeros_like(a))


@few
@given(seeds, sizes)
def test_derivatives_compose_by_the_chain_rule(seed: int, n: list[int]) -> None:
    """lens_of(f) >> lens_of(g) is lens_of of the composite, and both are the Jacobian's transpose, to 1e-10."""
    u, v = random(seed, n[1], n[0]), random(seed + 1, n[2], n[1])

    def f(x: Tensor) -> Tensor:
        return (u @ x).tanh()

    def g(x: Tensor) -> Tensor:
        return (v @ x).exp() * x.sum()

    a, d = random(seed + 2, n[0]), random(seed + 3, n[2])
    composed = (lens_of(f) >> lens_of(g)).rev(a, d)
    whole = lens_of(lambda x: g(f(x))).rev(a, d)
    jacobian = torch.autograd.functional.jacobian(lambda x: g(f(x)), a)
    torch.testing.assert_close(composed, whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(composed, jacobian.T @ d, rtol=1e-10, atol=1e-10)


def test_values_of_different_forms_are_refused() -> None:
    x = torch.zeros(2)
    with pytest.raises(ValueError, match="values of one form"):
        plus((x, x), (x,))
    with pytest.raises(ValueError, match="got list"):
        tree_map(torch.neg, [x])
    assert zero(()) == ()
    assert plain(identity).start == ()
