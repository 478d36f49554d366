"""The claim's exact criteria, the wells, sharpness, and how they are judged."""

import pytest
import torch

from shoal.learning import Task
from shoal.learning.data import Data, Dataset
from shoal.learning.task import squared_error
from shoal.optim import SGD, Adam
from shoal.papers import adam_cm as paper

from .made import comparison


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.no_buffer(figures).holds
    assert paper.buffered(figures).holds


def test_points_end_where_gradient_descent_takes_them() -> None:
    start = [torch.tensor([-2.0], dtype=torch.float64)]
    (trapped,) = paper.roll(SGD.rule(0.02), start, [0.4], 2000)
    (free,) = paper.roll(SGD.rule(0.2), [torch.tensor([2.9], dtype=torch.float64)], [0.4], 2000)
    assert abs(float(trapped)) < 0.4
    assert float(free) == pytest.approx(3.0, abs=1e-6)
    assert float(start[0]) == -2.0
    at = float(trapped)  # a root of the slope
    slope = 0.1 * (at - 3.0) + at / 0.16 * torch.tensor(-(at**2) / 0.32, dtype=torch.float64).exp()
    assert float(slope) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("ours", "adam", "expected"),
    [
        ([1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.0, 0.0, 0.0, 0.0], [True, True]),
        ([1.0, 0.6, 0.0, 0.0, 0.0, 0.0], [1.0, 0.55, 0.0, 0.0, 0.0, 0.0], [True, False]),
        ([0.0] * 6, [0.0] * 6, [False, False]),
        ([1.0] * 6, [1.0] * 6, [False, False]),
    ],
)
def test_basins_are_judged_by_share_and_by_width(ours: list[float], adam: list[float], expected: list[bool]) -> None:
    findings = paper.basins({"Adam+CM": ours, "Adam": adam}, {})
    assert [finding.holds for finding in findings] == expected


def test_sharpness_is_the_largest_eigenvalue() -> None:
    inputs = torch.randn(300, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([3.0, 1.0, 0.5])
    data = Data(inputs, torch.zeros(300, 1))
    task = Task("line", lambda: torch.nn.Linear(3, 1, bias=False), Dataset("line", data, data), squared_error)
    expected = float(torch.linalg.eigvalsh(inputs.T @ inputs / 300)[-1])
    assert paper.sharpness(Adam, 0.01, 2, 3, task) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("ours", "holds"), [(0.8521, True), (0.8519, False)])
def test_a_gain_is_at_least_a_fifth_of_a_point(ours: float, holds: bool) -> None:
    assert paper.better(comparison({"Adam": 0.85, "Adam+CM": ours})).holds is holds


@pytest.mark.parametrize(("ours", "holds"), [([1.0, 2.9], True), ([1.0, 3.0], False)])
def test_the_mean_sharpness_counts(ours: list[float], holds: bool) -> None:
    assert paper.flatter({"Adam+CM": ours, "Adam": [2.0, 2.0]}, {}).holds is holds
