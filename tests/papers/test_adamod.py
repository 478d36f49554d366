"""The claim's own arithmetic: its exact criteria, and how losses are judged."""

import pytest

from shoal.learning.results import Trial
from shoal.papers import adamod as paper

from .comparisons import comparison, entry


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.agreement(figures).holds
    assert paper.first_step(figures).holds
    assert paper.bounded(figures).holds
    assert paper.extremes(figures).holds


@pytest.mark.parametrize(("loss", "holds"), [(1.79, True), (1.81, False)])
def test_the_high_rate_is_judged_where_it_was_tried(loss: float, holds: bool) -> None:
    def tried(value: float) -> list[Trial]:
        return [Trial(0.001, {}, (0.1,)), Trial(paper.HIGH, {}, (value,))]

    made = [entry("AdaMod", [1.0], trials=tried(loss)), entry("Adam", [1.0], trials=tried(2.0))]
    assert paper.high_rate(comparison(made, metric="loss"), {}).holds is holds


@pytest.mark.parametrize(("ours", "expected"), [(0.9, [True, True]), (1.005, [True, False]), (1.02, [False, False])])
def test_the_best_rates_are_judged(ours: float, expected: list[bool]) -> None:
    found = comparison({"AdaMod": ours, "Adam": 1.0, "Adam, warm-up": 1.0}, metric="loss")
    assert [finding.holds for finding in paper.best_rates(found)] == expected
