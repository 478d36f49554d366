"""What claims about optimizers share: paths of rules fed by hand, and what is kept of a comparison."""

import math

import pytest
import torch

from shoal.optim import SGD, Adam
from shoal.papers.optimizers import inverse_root, path, points, record, torch_path
from shoal.tensors import normal

from .comparisons import comparison, entry


def test_a_path_is_that_of_gradient_descent() -> None:
    start = torch.tensor([2.0, -1.0], dtype=torch.float64)
    found = path(SGD.rule(0.1), lambda t, x: x, start, 30)
    expected = start * 0.9 ** torch.arange(31, dtype=torch.float64)[:, None]
    assert torch.allclose(found, expected, rtol=1e-13)
    assert torch.equal(start, torch.tensor([2.0, -1.0], dtype=torch.float64))


def test_a_path_follows_a_schedule_and_keeps_what_was_asked_for() -> None:
    ones = [torch.ones(1, dtype=torch.float64)] * 12
    found = path(SGD.rule(9.0), ones, torch.zeros(1, dtype=torch.float64), schedule=inverse_root(0.5), every=4)
    sums = [0.5 * sum((t + 1) ** -0.5 for t in range(steps)) for steps in (0, 4, 8, 12)]
    assert found[:, 0].tolist() == pytest.approx([-s for s in sums], abs=1e-14)


def test_a_path_needs_to_know_where_to_end() -> None:
    with pytest.raises(ValueError, match="steps: got None"):
        path(SGD.rule(0.1), lambda t, x: x, torch.zeros(1))


def test_torch_meets_the_same_gradients() -> None:
    gradients = list(normal(1, (20, 4), dtype=torch.float64))
    ours = path(Adam.rule(0.1), gradients, torch.zeros(4, dtype=torch.float64))
    other = torch_path(torch.optim.SGD, gradients, torch.zeros(4, dtype=torch.float64), lr=0.1)
    assert other[-1] == pytest.approx(-0.1 * torch.stack(gradients).sum(0))
    assert (ours - other).abs().max() > 0.1


def test_figures_have_no_infinite_losses() -> None:
    figures: dict[str, float] = {}
    record(comparison([entry("Adam", [0.8, 0.0], losses=[0.5, math.inf])]), figures, "here")
    assert all(map(math.isfinite, figures.values()))
    assert figures["diverged test runs, Adam (here)"] == 1
    assert figures["test loss, Adam, seed 0 (here)"] == 0.5
    assert "test loss, Adam, seed 1 (here)" not in figures


def test_points_are_hundredths() -> None:
    assert points(0.81, 0.80) == "+1.00 points"
