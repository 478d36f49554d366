"""The claim's own arithmetic: its exact criterion, and how sweeps are judged."""

import math

import pytest

from shoal.papers import adahessian as paper
from shoal.papers.loops import Sweep


def test_the_exact_criterion_holds() -> None:
    assert paper.lands({}).holds


def swept(*pairs: tuple[float, float]) -> Sweep:
    return {0.1 * 10**i: {"accuracy": a, "loss": loss} for i, (a, loss) in enumerate(pairs)}


@pytest.mark.parametrize(("accuracy", "loss", "expected"), [(0.8, 0.3, True), (0.79, 0.31, False)])
def test_the_best_of_each_is_judged_and_ties_hold(accuracy: float, loss: float, expected: bool) -> None:
    scores = {"AdaHessian": swept((0.1, math.nan), (accuracy, loss)), "Adam": swept((0.8, 0.3), (0.7, 0.4))}
    assert paper.as_accurate(scores).holds is expected
    assert paper.lower("images", scores).holds is expected


def test_the_spread_is_over_all_rates() -> None:
    wide, narrow = swept((0.8, 1.0), (0.5, 1.0)), swept((0.7, 1.0), (0.6, 1.0))
    assert paper.flat({"AdaHessian": narrow, "Adam": wide}).holds
    assert not paper.flat({"AdaHessian": wide, "Adam": narrow}).holds
