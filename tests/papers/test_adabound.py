"""The claim's own arithmetic: its exact criteria, and how accuracies are judged."""

import pytest

from shoal.papers import adabound as paper

from .comparisons import comparison, entry


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.narrow(figures).holds
    assert paper.wide(figures).holds
    assert paper.inside(figures).holds
    assert 0.1 < figures["share of rates at its edges"] < 1.0  # the band is at work, and not all there is


def test_adam_is_driven_to_the_worst_point_and_half_the_way_back_is_not_enough() -> None:
    figures: dict[str, float] = {}
    assert not paper.worst_point(figures, 4000).holds
    assert figures["last point, Adam"] > 0.99
    assert -0.95 < figures["last point, AdaBound"] < 0.0


@pytest.mark.parametrize(("loss", "holds"), [(1.05, True), (1.06, False)])
def test_the_first_tenth_is_judged_by_the_first_losses(loss: float, holds: bool) -> None:
    found = comparison([entry("AdaBound", [0.8], train=(loss, 0.1)), entry("Adam", [0.8], train=(1.0, 0.5))])
    assert paper.early(found, {}).holds is holds


def test_what_diverged_was_not_early() -> None:
    found = comparison([entry("AdaBound", [0.0], losses=[float("inf")]), entry("Adam", [0.8])])
    assert not paper.early(found, {}).holds


@pytest.mark.parametrize(("bound", "expected"), [(0.87, [True, True]), (0.846, [True, False]), (0.84, [False, False])])
def test_final_accuracies_are_judged_in_points(bound: float, expected: list[bool]) -> None:
    found = comparison({"AdaBound": bound, "Adam": 0.845, "SGD": 0.85})
    assert [finding.holds for finding in paper.late(found)] == expected


def test_the_rate_falls_for_the_last_quarter() -> None:
    rates = [paper.decayed(1.0, 40)(t) for t in range(40)]
    assert rates == [1.0] * 30 + [pytest.approx(0.1)] * 10
