"""The claim's own arithmetic: first steps, the schedule, equal budgets, and how accuracies are judged."""

import pytest

from shoal.learning.contenders import Span, points
from shoal.papers import large_batch_reality as paper

from .comparisons import comparison


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.first_steps(figures).holds
    assert paper.schedule(figures).holds


def test_everyone_has_the_same_budget_and_the_same_ranges() -> None:
    tried = {name: points(made, (), 12, 3) for name, made in paper.contenders(100).items()}
    assert {len(found) for found in tried.values()} == {12}
    for shared in ("decay1", "weight_decay", "warmup_steps"):
        assert len({tuple(point.settings[shared] for point in found) for found in tried.values()}) == 1
    for made in paper.contenders(100).values():
        assert isinstance(made.rates, Span)
        assert made.rates.high / made.rates.low == pytest.approx(1000)


@pytest.mark.parametrize(
    ("nesterov", "adam", "expected"),
    [(0.846, 0.85, [True, True, True]), (0.844, 0.85, [False, True, True]), (0.86, 0.836, [True, False, False])],
)
def test_accuracies_are_judged_in_points(nesterov: float, adam: float, expected: list[bool]) -> None:
    found = comparison({"Nesterov": nesterov, "LARS": 0.85, "Adam": adam, "LAMB": 0.845})
    assert [finding.holds for finding in (*paper.as_good(found), paper.together(found))] == expected
