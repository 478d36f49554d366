"""The claim's own arithmetic: the toy against a restatement, and how paths are judged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from shoal.instruments.opposing import FullBatchPath
from shoal.learning.data import opposing_signals
from shoal.papers import opposing_signals as paper
from shoal.tensors import key, normal
from tests.restatements.instruments import opposing_signals as restated


def test_the_exact_criteria_hold() -> None:
    assert paper.stable({}).holds
    assert paper.unstable({}).holds


def test_the_toy_descends_as_restated() -> None:
    problem = opposing_signals(norm=2.0, alpha=50.0, p=0.02, seed=4)
    b = 0.01 * normal(key(4, "toy"), 40, dtype=torch.float64).numpy()
    toy = restated.Toy(problem.beta.numpy(), problem.u.numpy(), 50.0, 0.02, b[:20], b[20:], 0.1)
    points = restated.descend(toy, 0.008, 60)
    found = paper.descend(0.008, 61)
    np.testing.assert_allclose(found.losses.numpy(), [point.excess_loss() for point in points], rtol=1e-9)
    np.testing.assert_allclose(found.eigenvalues.numpy(), [point.sharpness() for point in points], rtol=1e-5)
    np.testing.assert_allclose(found.outliers.numpy(), [point.outlier_losses() for point in points], rtol=1e-9)


def path(*means: float, diverged: bool = False) -> FullBatchPath:
    losses = torch.tensor(means)[:, None].expand(-1, 3)
    return FullBatchPath(losses, losses[..., None], (), (), diverged)


def test_rises_are_added_up() -> None:
    assert paper.total_rise(path(3.0, 1.0, 2.0, 1.5, 1.75)) == pytest.approx(1.25)
    assert paper.total_rise(path(1.0, diverged=True)) == float("inf")
    assert paper.until(path(3.0, 2.0, 2.5, 1.0, 4.0), 1.0) == pytest.approx(0.5)
    assert paper.until(path(3.0, 2.0, 2.5, 1.0, 4.0), 0.9) == float("inf")
    assert paper.until(path(3.0, 1.0, diverged=True), 2.0) == float("inf")


@pytest.mark.parametrize(
    ("adam", "lower", "holds"),
    [
        ((0.5, 1.5), math.inf, True),
        ((0.5, 1.6), math.inf, False),
        ((0.0, math.inf), math.inf, False),
        ((0.5, 1.5), 1.1, True),
        ((0.5, 1.5), 1.0, False),
    ],
)
def test_adam_alone_has_to_be_calm_and_to_arrive(adam: tuple[float, ...], lower: float, holds: bool) -> None:
    reached = {"Adam": adam, "rate 0.1": (math.inf, 0.0), "rate 0.05": (lower, lower)}
    assert paper.calmer((1.0, 3.0), reached).holds is holds
