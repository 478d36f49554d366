"""The claim's own arithmetic: its exact criteria, and how sweeps are judged."""

import pytest

from shoal.papers import momo as paper


def test_the_exact_criteria_hold() -> None:
    assert paper.polyak({}).holds
    assert [finding.holds for finding in paper.interpolation({})] == [True, True]


@pytest.mark.parametrize(("best", "holds"), [(0.846, True), (0.844, False)])
def test_the_best_accuracies_are_judged_in_points(best: float, holds: bool) -> None:
    assert paper.as_good("Adam", "MoMoAdam", {0.1: best, 1.0: 0.5}, {0.1: 0.85, 1.0: 0.3}).holds is holds


def test_good_rates_are_counted_from_the_better_best() -> None:
    ours = {0.1: 0.80, 1.0: 0.83, 10.0: 0.84}
    assert paper.wider("MoMo", ours, {0.1: 0.84, 1.0: 0.1, 10.0: 0.0}, 1).holds
    assert not paper.wider("MoMo", ours, {0.1: 0.86, 1.0: 0.1, 10.0: 0.0}, 1).holds  # ours then has one, as SGD has
