"""Lanczos against given spectra, and against torch.linalg.eigvalsh of Hessians that torch.func writes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shoal.instruments import eigenpairs, lanczos, sharpness
from shoal.tensors.random import normal

from .small import hessian


def symmetric(values: Tensor) -> Tensor:
    q = torch.linalg.qr(normal(5, (len(values), len(values)), dtype=torch.float64)).Q
    return q @ values.diag() @ q.T


def test_both_ends_of_a_network_are_those_of_its_hessian() -> None:
    surface, h = hessian()
    expected = torch.linalg.eigvalsh(h).flip(0)
    found = eigenpairs(surface, top=3, bottom=2, tolerance=1e-9)
    assert found.converged
    torch.testing.assert_close(found.values, torch.cat([expected[:3], expected[-2:]]), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(5).double(), rtol=0, atol=1e-8)
    off = found.vectors @ h - found.values[:, None] * found.vectors
    assert float(off.norm(dim=1).max()) <= 1e-9 * float(expected[0]) * 1.01
    torch.testing.assert_close(off.norm(dim=1), found.residuals, rtol=1e-2, atol=1e-12)
    assert sharpness(surface) == pytest.approx(float(expected[0]), rel=1e-3)
    assert sharpness(surface, tolerance=1e-8) == pytest.approx(float(expected[0]), rel=1e-8)


def test_a_few_products_suffice_for_the_ends_of_a_long_spectrum() -> None:
    values = torch.cat([torch.tensor([90.0, 50.0]).double(), torch.linspace(-1.0, 1.0, 400).double()])
    h = symmetric(values)
    found = lanczos(lambda v: h @ v, h[0], top=2, tolerance=1e-6)
    assert found.products <= 20
    torch.testing.assert_close(found.values, values[:2], rtol=1e-9, atol=0)


def test_an_eigenvalue_that_is_there_thrice_is_found_thrice() -> None:
    values = torch.tensor([7.0, 7.0, 7.0, *[0.5] * 20, -3.0, -3.0]).double()
    h = symmetric(values)
    found = lanczos(lambda v: h @ v, h[0], top=4, bottom=2, tolerance=1e-8)
    expected = torch.tensor([7.0, 7.0, 7.0, 0.5, -3.0, -3.0]).double()
    torch.testing.assert_close(found.values, expected, rtol=1e-9, atol=1e-9)
    assert found.products < len(values)


def test_a_matrix_of_zeros_has_a_value_of_zero() -> None:
    found = lanczos(torch.zeros_like, torch.ones(5), top=2)
    assert found.values.tolist() == [0.0, 0.0]
    assert found.converged


def test_all_values_of_a_small_matrix() -> None:
    values = torch.tensor([3.0, 1.0, -2.0, -2.5]).double()
    h = symmetric(values)
    found = lanczos(lambda v: h @ v, h[0], top=2, bottom=2, tolerance=1e-12)
    torch.testing.assert_close(found.values, values, rtol=1e-12, atol=0)
    assert found.products <= 4


def test_what_has_not_converged_says_so_and_how_far_it_may_be_off() -> None:
    h = symmetric(torch.linspace(0.0, 1.0, 300).double())
    found = lanczos(lambda v: h @ v, h[0], products=5, tolerance=1e-6)
    assert not found.converged
    assert found.products == 5
    assert abs(float(found.values[0]) - 1.0) > 1e-6
    v = found.vectors[0]
    assert float((h @ v - found.values[0] * v).norm()) == pytest.approx(float(found.residuals[0]), rel=1e-6)


def test_the_seed_decides() -> None:
    h = symmetric(torch.linspace(0.0, 1.0, 50).double())
    once, again, other = (lanczos(lambda v: h @ v, h[0], seed=s, products=8).values[0] for s in (0, 0, 1))
    assert once == again != other


def test_wrong_arguments_are_named() -> None:
    one = torch.ones(4)
    for options, message in [
        ({"top": 0}, "top, bottom: got 0, 0"),
        ({"top": 3, "bottom": 2}, "top, bottom: got 3, 2"),
        ({"tolerance": 0.0}, "tolerance: got 0.0"),
        ({"top": 3, "products": 2}, "products: got 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            lanczos(lambda v: v, one, **options)
    with pytest.raises(ValueError, match="product: got a result that is not finite"):
        lanczos(lambda v: v * float("nan"), one)
