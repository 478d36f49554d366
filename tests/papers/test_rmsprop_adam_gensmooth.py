"""The claim's own arithmetic: its steps against a restatement, and its slopes."""

from __future__ import annotations

import math

import pytest
import torch

from shoal.optim import stationary
from shoal.papers import rmsprop_adam_gensmooth as paper
from tests.restatements.optimizers import generalized_smooth as restated


def test_steps_are_written_out_and_sgd_diverges() -> None:
    assert paper.written_out({}).holds
    assert paper.divergence((0.5, 0.2)).holds


@pytest.mark.parametrize("name", ["RMSProp", "Adam"])
def test_walks_are_those_of_the_restated_methods(name: str) -> None:
    """Norms of the gradient on the way, with the same noise."""
    chosen = stationary(0.5)
    start = [torch.full((2, paper.DIMENSION), 2.0, dtype=torch.float64).numpy()]
    shared = {"lr": chosen.lr, "zeta": paper.ZETA, "v0": paper.V0}
    theirs = (
        restated.RMSProp(start, beta2=chosen.beta2, **shared)
        if name == "RMSProp"
        else restated.Adam(start, betas=(paper.BETA1, chosen.beta2), **shared)
    )
    factors, additions = paper.noise(paper.CHUNK, 2, 0)
    expected = []
    for t in range(30):
        gradient = paper.fourth_power(torch.from_numpy(theirs.params[0]))
        expected.append(torch.linalg.vector_norm(gradient, dim=1))
        theirs.step([(gradient * factors[t] + additions[t]).numpy()])
    found = paper.walk(paper.rule(name, 0.5), paper.fourth_power, 2.0, 30, 2)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_noise_is_unbiased_and_its_variance_affine() -> None:
    factors, additions = paper.noise(20_000, 1, 3)
    assert float(factors.mean()) == pytest.approx(1.0, abs=0.01)
    assert set(factors.unique().tolist()) == {0.0, 2.0}
    assert float(additions.std()) == pytest.approx(0.1, rel=0.02)


def test_slopes_are_those_of_powers() -> None:
    epsilons = (0.5, 0.3, 0.1)
    assert paper.slope(epsilons, [2.0 * e**1.5 for e in epsilons]) == pytest.approx(1.5)
    assert paper.slope(epsilons, [1.0, math.inf, 1.0]) == -math.inf
    figures: dict[str, float] = {}
    assert not paper.linear("x", epsilons, [e**0.9 for e in epsilons], figures).holds
    assert not paper.linear("y", epsilons, [math.inf] * 3, figures).holds
    assert [name for name in figures if name.startswith("y")] == []


def test_gradients_are_those_of_the_functions() -> None:
    x = torch.linspace(-1.5, 1.5, paper.DIMENSION, dtype=torch.float64).requires_grad_()
    c = paper.curvatures()
    for gradient, value in (
        (paper.fourth_power, (c * x**4 / 4).sum()),
        (paper.exponential, (c * (torch.cosh(2 * x) - 1) / 4).sum()),
    ):
        (expected,) = torch.autograd.grad(value, x)
        torch.testing.assert_close(gradient(x.detach()), expected)
