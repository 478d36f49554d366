"""The claim's own arithmetic: its exact criteria, and how accuracies are judged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from shoal.optim import Rule
from shoal.optim.xgrad import xgrad
from shoal.papers import xgrad as paper


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.nesterov(figures).holds
    assert paper.stability(figures, steps=400).holds
    assert paper.contraction(figures).holds


@pytest.mark.parametrize(
    "wrong", [lambda rule, s: rule, lambda rule, s: xgrad(rule, 2.0 * s)], ids=["no prediction", "twice as far"]
)
def test_the_exact_criteria_fail_for_another_prediction(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Rule, float], Rule]
) -> None:
    monkeypatch.setattr(paper, "xgrad", wrong)
    assert not paper.nesterov({}).holds
    assert not paper.stability({}, steps=400).holds
    assert not paper.contraction({}).holds


@pytest.mark.parametrize(("s", "z"), [(0.0, 0.3), (1.0, 0.3), (2.0, 0.1), (1.0, 1.2), (0.5, 0.01)])
def test_the_spectral_radius_is_that_of_the_recursion(s: float, z: float) -> None:
    matrix = torch.tensor([[paper.MU - s * z, 1.0], [-z * (paper.MU - s * z), 1.0 - z]], dtype=torch.float64)
    assert paper.radius(s, z) == pytest.approx(float(torch.linalg.eigvals(matrix).abs().max()))


@pytest.mark.parametrize("s", [0.0, 1.0, 2.0])
def test_the_spectral_radius_passes_one_at_the_limit(s: float) -> None:
    limit = 2.0 * (1.0 + paper.MU) / (1.0 + 2.0 * s)
    assert paper.radius(s, 0.999 * limit) < 1.0 < paper.radius(s, 1.001 * limit)


def test_an_equal_accuracy_is_not_a_higher_one() -> None:
    assert paper.higher("Adam", 0.81, 0.80).holds
    assert not paper.higher("Adam", 0.80, 0.80).holds
