"""The claim's own arithmetic: its exact criteria, and how ratios of steps are found and judged."""

from __future__ import annotations

import math

import pytest

from shoal.papers import cautious as paper
from tests.papers.made import comparison


def test_the_exact_criteria_hold() -> None:
    assert paper.never_against({}).holds
    assert paper.nothing_masked({}).holds


def test_the_exact_criteria_fail_without_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "cautious", lambda rule: rule)
    assert not paper.never_against({}).holds
    assert not paper.nothing_masked({}).holds
    assert not paper.falling({}).holds


def test_the_mask_lets_the_loss_rise_less_often() -> None:
    figures: dict[str, float] = {}
    paper.falling(figures)
    assert figures["steps that raise the loss, masked"] < 0.2 * figures["steps that raise the loss, momentum"]


def test_steps_to_a_loss_lie_between_evaluations() -> None:
    assert paper.steps_to([10, 20, 30], [3.0, 2.0, 1.0], 1.5) == pytest.approx(25.0)
    assert paper.steps_to([10, 20], [3.0, 2.0], 4.0) == 10.0
    assert paper.steps_to([10, 20], [3.0, 2.0], 1.0) == math.inf
    assert paper.steps_to([10, 20, 30], [3.0, 1.0, 5.0], 1.0) == 20.0  # the first time


@pytest.mark.parametrize(("masked", "expected"), [([2.0, 1.0, 0.5], 1.5), ([3.0, 2.0, 1.5], 0.0)])
def test_the_ratio_of_steps_is_to_the_final_loss_of_the_one_without_mask(masked: list[float], expected: float) -> None:
    curves = {"AdamW": [3.0, 2.0, 1.0], "C-AdamW": masked}
    found = comparison({"AdamW": 1.0, "C-AdamW": masked[-1]}, curves=curves, evaluated=(10, 20, 30))
    assert paper.speedup(found, "C-AdamW", "AdamW") == pytest.approx(expected)


def test_margins_are_kept() -> None:
    assert [finding.holds for finding in paper.faster({"AdamW": 1.19, "Lion": 1.1}, "")] == [False, True]
    assert [finding.holds for finding in paper.faster({"AdamW": 1.2, "Lion": 1.09}, "")] == [True, False]
    assert paper.lower("AdamW", 0.5, 0.51).holds
    assert not paper.lower("AdamW", 0.51, 0.51).holds
