"""The claim's own arithmetic: dual averaging, and how accuracies are judged."""

import pytest

from shoal.papers import d_adaptation as paper


def test_d_stays_a_lower_bound_and_a_small_start_costs_less_the_longer_the_run() -> None:
    figures: dict[str, float] = {}
    assert paper.convex(figures)[0].holds
    short = figures["d0 = 1e-08: loss"] / figures["loss of dual averaging that is told the distance"]
    long = figures["d0 = 1e-08, 10 times the steps: loss"] / figures["10 times the steps, told the distance: loss"]
    assert 1.0 < long < 1.5 < short


def test_the_distance_that_is_told_is_kept() -> None:
    _, bounds = paper.dual_averaging(7.5, steps=20, adapts=False)
    assert set(bounds) == {7.5}


@pytest.mark.parametrize(("ours", "holds"), [(0.841, True), (0.839, False)])
def test_a_point_below_is_a_match(ours: float, holds: bool) -> None:
    assert paper.matches("Adam", ours, 0.85).holds is holds
