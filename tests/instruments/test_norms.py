"""The (1,1)-norm by Cauchy draws against closed forms, dense Hessians and a restatement with the same draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from shoal.instruments import row_scales, smoothness
from shoal.instruments.norms import cauchy
from shoal.tensors.random import key, normal
from tests.restatements.instruments import one_one_norm as restated

from .small import hessian


def test_draws_are_standard_cauchy_numbers() -> None:
    rows = cauchy(torch.arange(20), 20_000)
    assert min(kstest(z.numpy(), "cauchy").pvalue for z in rows) > 0.01 / 20
    assert torch.equal(cauchy(torch.tensor([3]), 20_000)[0], rows[3])


@pytest.mark.parametrize("draws", [3, 10, 31])
def test_with_the_same_draws_it_is_the_restated_estimate(draws: int) -> None:
    h = normal(1, (9, 9), dtype=torch.float64)
    h = h + h.T
    z = cauchy(torch.tensor([key(5, "cauchy", k) for k in range(draws)]), 9).numpy()
    found = row_scales(lambda v: v @ h, h[0], draws=draws, seed=5)
    medians = restated.row_scales(lambda v: h.numpy() @ v, z)
    quartiles = restated.row_scales(lambda v: h.numpy() @ v, z, "quartiles")
    np.testing.assert_allclose(found.medians.numpy(), medians, rtol=1e-10)
    np.testing.assert_allclose(found.quartiles.numpy(), quartiles, rtol=1e-10)
    assert found.norm == pytest.approx(float(medians.sum()), rel=1e-10)


def test_many_draws_find_the_norm_of_a_matrix() -> None:
    h = normal(2, (50, 50), dtype=torch.float64)
    h = h + h.T
    found = row_scales(lambda v: v @ h, h[0], draws=20_001, together=4096)
    exact = float(h.abs().sum())
    assert found.norm == pytest.approx(exact, rel=0.02)
    assert found.norm_by_quartiles == pytest.approx(exact, rel=0.02)
    spread = (found.medians / h.abs().sum(1) - 1).square().mean().sqrt()
    assert float(spread) == pytest.approx(math.pi / 2 / math.sqrt(20_001), rel=0.5)


def test_the_smoothness_of_a_network_is_that_of_its_dense_hessian() -> None:
    surface, h = hessian()
    found, sigma = smoothness(surface, draws=401), restated.relative_deviation(401)
    exact, largest = float(h.abs().sum()), float(torch.linalg.eigvalsh(h).abs().max())
    assert found.norm == pytest.approx(exact, rel=3.0 * sigma)
    assert found.norm_by_quartiles == pytest.approx(exact, rel=3.0 * sigma)
    assert found.largest == pytest.approx(largest, rel=1e-3)
    assert found.size == len(h)
    assert found.per_coordinate == pytest.approx(found.norm / len(h))
    assert found.advantage == pytest.approx(len(h) * largest / found.norm, rel=1e-3)


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="draws: got 2"):
        row_scales(lambda v: v, torch.ones(3), draws=2)
