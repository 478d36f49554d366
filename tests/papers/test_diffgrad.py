"""The claim's exact criteria, the well, and how accuracies are judged."""

import math

import pytest
import torch

from shoal.optim import Adam
from shoal.papers import diffgrad as paper

from .made import comparison

NAMES = ("diffGrad", "Adam", "Adam, half rates")


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.between(figures).holds
    assert paper.constant(figures).holds


def test_steps_of_another_length_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "DiffGrad", type("Short", (), {"rule": lambda lr, **h: Adam.rule(0.4 * lr, **h)}))
    assert not paper.between({}).holds
    assert not paper.constant({}).holds


def test_the_minimum_is_the_lower_one_and_the_slope_the_wells() -> None:
    x = torch.linspace(-2.0, 2.0, 4001, dtype=torch.float64, requires_grad=True)
    well = (x.square() - 1).square() + x / 4
    (slope,) = torch.autograd.grad(well.sum(), x)
    assert paper.slope(0, x.detach()).numpy() == pytest.approx(slope.numpy(), abs=1e-12)
    assert paper.lower_minimum() == pytest.approx(float(x.detach()[well.argmin()]), abs=1e-3)


def test_who_creeps_does_not_run_past_and_who_leaps_does() -> None:
    assert paper.run_past(Adam.rule(1e-5), steps=50) == 0.0
    assert paper.run_past(Adam.rule(2.0), steps=50) > 1.0


@pytest.mark.parametrize(("ours", "expected"), [(0.1, [True, True]), (0.25, [True, False]), (0.4, [False, False])])
def test_adam_at_half_the_rate_is_a_baseline(
    monkeypatch: pytest.MonkeyPatch, ours: float, expected: list[bool]
) -> None:
    values = iter([ours, 0.3, 0.2] * len(paper.RATES))
    monkeypatch.setattr(paper, "run_past", lambda rule: next(values))
    assert [finding.holds for finding in paper.past({})] == expected
    assert next(values, math.nan) is math.nan


@pytest.mark.parametrize(
    ("scores", "expected"),
    [((0.85, 0.84, 0.84), [True, True]), ((0.85, 0.84, 0.849), [True, False]), ((0.84, 0.84, 0.80), [False, True])],
)
def test_gains_are_judged_against_both(scores: tuple[float, ...], expected: list[bool]) -> None:
    found = comparison(dict(zip(NAMES, scores, strict=True)))
    assert [finding.holds for finding in paper.better(found)] == expected
