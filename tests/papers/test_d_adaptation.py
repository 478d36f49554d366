"""The claim's own arithmetic: dual averaging, how accuracies are judged, and the same d as the authors' package."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from shoal.optim import DAdaptSGD
from shoal.papers import d_adaptation as paper
from shoal.papers.loops import accuracy, trained
from shoal.papers.optimizers import fashion


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


def test_the_authors_package_finds_the_same_d_on_the_claims_network() -> None:
    theirs = pytest.importorskip("dadaptation", reason="dadaptation is not installed")

    def last(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> torch.optim.Optimizer:
        made: list[torch.optim.Optimizer] = []

        def kept(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            made.append(make(parameters))
            return made[0]

        trained(fashion(), kept, steps=60, batch=paper.BATCH, seed=81)
        return made[0]

    ours = last(lambda p: DAdaptSGD(p, momentum=0.9))
    other = last(lambda p: theirs.DAdaptSGD(p, momentum=0.9))
    d = float(next(iter(ours.state.values()))["d"])
    assert d == pytest.approx(other.param_groups[0]["d"], rel=1e-5)
    assert d > 1e3 * other.defaults["d"]


def test_rates_fall_with_the_schedule() -> None:
    untouched = accuracy(fashion().initial(3), fashion())
    for schedule, moves in ((lambda step: 0.0, False), (lambda step: 1.0, True)):
        run = trained(fashion(), lambda p: torch.optim.SGD(p, lr=0.1), steps=30, batch=32, seed=3, schedule=schedule)
        assert (run["accuracy"] != untouched) is moves
