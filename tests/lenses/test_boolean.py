"""Polynomials over Z2 against brute force, the chain rule for all bits, and tables that learn."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal.lenses import whole_loss, xor
from shoal.lenses.boolean import Polynomials, bits, difference, lookup, parity, polynomials
from shoal.lenses.learning import step

few = settings(max_examples=40, deadline=None)


def maps(n: int, m: int) -> st.SearchStrategy[Polynomials]:
    """Polynomials with exponents to 2."""
    monomial = st.tuples(*[st.integers(0, 2)] * n)
    return st.tuples(*[st.frozensets(monomial, max_size=4)] * m).map(lambda outputs: Polynomials(n, outputs))


def by_numbers(f: Polynomials, x: list[int]) -> list[int]:
    """Evaluation in whole numbers, mod 2."""
    return [sum(all(v or not e for v, e in zip(x, m, strict=True)) for m in output) % 2 for output in f.outputs]


@few
@given(maps(3, 2))
def test_values_are_sums_of_products(f: Polynomials) -> None:
    words = bits(3)
    assert f(words).int().tolist() == [by_numbers(f, x) for x in words.int().tolist()]


def expected_rev(f: Polynomials, x: Tensor, change: Tensor) -> list[int]:
    """J^T y' from exponents in whole numbers: d x^e = e x^(e-1)."""
    result = []
    for i in range(f.inputs):
        total = 0
        for output, d in zip(f.outputs, change.int().tolist(), strict=True):
            for m in output:
                lowered = [e - (k == i) for k, e in enumerate(m)]
                value = m[i] * all(v or not e for v, e in zip(x.int().tolist(), lowered, strict=True))
                total += d * value
        result.append(total % 2)
    return result


@few
@given(maps(3, 2))
def test_the_reverse_derivative_is_the_transposed_jacobian(f: Polynomials) -> None:
    for x, change in itertools.product(bits(3), bits(2)):
        assert f.lens.rev(x, change).int().tolist() == expected_rev(f, x, change)


@few
@given(maps(2, 3), maps(3, 2))
def test_lenses_of_composites_are_composites_of_lenses(f: Polynomials, g: Polynomials) -> None:
    """On all bits, forwards and backwards; formal powers matter: of (x, x) then the product, x^2."""
    whole, parts = f.then(g).lens, f.lens >> g.lens
    for change in bits(2):
        change = change.expand(4, 2)
        assert torch.equal(whole.fwd(bits(2)), parts.fwd(bits(2)))
        assert torch.equal(whole.rev(bits(2), change), parts.rev(bits(2), change))


def test_a_square_has_derivative_zero() -> None:
    square = polynomials(1, [[0]], [[0]]).then(polynomials(2, [[0, 1]]))
    assert square.outputs == (frozenset({(2,)}),)
    assert square.derivative(0).outputs == (frozenset(),)


def table_as_polynomials(inputs: int) -> Polynomials:
    """x -> p_x in the variables (p, x), multiplied out: prod_i (x_i + s_i + 1)."""
    count = 2**inputs
    terms: set[tuple[int, ...]] = set()
    for word, s in enumerate(itertools.product((0, 1), repeat=inputs)):
        factors = [[(i,)] if s[i] else [(i,), ()] for i in range(inputs)]
        for choice in itertools.product(*factors):
            taken = {i for part in choice for i in part}
            terms ^= {tuple(int(k == word) for k in range(count)) + tuple(int(i in taken) for i in range(inputs))}
    return Polynomials(count + inputs, (frozenset(terms),))


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_a_table_is_its_polynomial_with_that_reverse_derivative(inputs: int) -> None:
    table, as_polynomials = lookup(inputs), table_as_polynomials(inputs)
    random = torch.Generator().manual_seed(inputs)
    one = torch.ones(1, dtype=torch.bool)
    for _ in range(5):
        p = torch.rand(2**inputs, 1, generator=random) < 0.5
        for x in bits(inputs):
            whole = torch.cat([p[:, 0], x])
            assert torch.equal(table.fwd(p, x), as_polynomials(whole))
            found_p, found_x = table.rev(p, x, one)
            assert torch.equal(torch.cat([found_p[:, 0], found_x]), as_polynomials.lens.rev(whole, one))


@pytest.mark.parametrize(("inputs", "outputs"), [(0, 1), (3, 1), (4, 3)])
def test_every_table_is_learned_in_one_pass(inputs: int, outputs: int) -> None:
    """Word by word, and all words in one step."""
    wanted = torch.rand(2**inputs, outputs, generator=torch.Generator().manual_seed(8)) < 0.5
    learner = step(lookup(inputs, outputs), difference, xor, whole_loss)
    here = learner.start
    for x, y in zip(bits(inputs), wanted, strict=True):
        here = learner(here, x, y)
    assert torch.equal(here[1], wanted)
    assert torch.equal(learner(learner.start, bits(inputs), wanted)[1], wanted)
    assert torch.equal(learner(here, bits(inputs), wanted)[1], wanted)  # what is right stays


def test_changes_of_a_batch_add_up_over_bits() -> None:
    learner = step(lookup(1), difference, xor, whole_loss)
    twice = torch.tensor([[True], [True]])
    assert not learner(learner.start, twice, twice)[1].any()
    assert parity(torch.tensor([True, True, True]))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="exponents"):
        Polynomials(2, (frozenset({(1,)}),))
    with pytest.raises(ValueError, match="after: got 3 inputs; 1"):
        polynomials(2, [[0]]).then(polynomials(3, [[0]]))
    with pytest.raises(ValueError, match="inputs, outputs: got 30"):
        lookup(30)
