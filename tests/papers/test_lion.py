"""The claim's own arithmetic: its exact criteria, and how accuracies are judged."""

from __future__ import annotations

import pytest

from shoal.optim import AdamW
from shoal.papers import lion as paper


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.even_steps(figures).holds
    assert paper.special_cases(figures).holds
    assert paper.scale_free(figures).holds


def test_the_exact_criteria_fail_for_another_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "Lion", AdamW)
    assert not paper.even_steps({}).holds
    assert not paper.special_cases({}).holds
    assert not paper.scale_free({}).holds  # eps


def test_state_has_to_be_half_of_adams() -> None:
    assert paper.state({"Lion": 4.0, "AdamW": 8.0}).holds
    assert not paper.state({"Lion": 8.0, "AdamW": 8.0}).holds


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        (0.0, 0.01, [True, True, True]),
        (-0.004, -0.0045, [True, True, False]),
        (-0.02, -0.006, [False, False, True]),
        (0.02, -0.006, [True, False, False]),
    ],
)
def test_accuracies_are_judged_at_each_batch_and_against_each_other(
    small: float, large: float, expected: list[bool]
) -> None:
    found = paper.accuracies({64: small, 1024: large}, {64: "", 1024: ""}, "task")
    assert [finding.holds for finding in found] == expected
