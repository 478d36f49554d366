"""The claim's own arithmetic: its exact criterion, and how accuracies are judged."""

import pytest

from shoal.optim import SGD
from shoal.papers import dog as paper


def test_the_exact_criterion_holds_and_fails_for_a_fixed_rate() -> None:
    assert paper.scale_free({}).holds

    class Fixed:
        @staticmethod
        def rule(eps: float) -> object:
            return SGD.rule(1e-3)

    assert not paper.scale_free({}, Fixed).holds  # type: ignore[arg-type]


@pytest.mark.parametrize(("dog", "holds"), [(0.831, True), (0.829, False)])
def test_a_point_below_tuned_sgd_is_near(dog: float, holds: bool) -> None:
    assert paper.near(dog, 0.84).holds is holds


@pytest.mark.parametrize(("ours", "sgd", "holds"), [(0.005, 0.2, True), (0.005, 0.01, False), (0.02, 0.5, False)])
def test_spreads_are_judged_alone_and_beside_sgd(ours: float, sgd: float, holds: bool) -> None:
    assert paper.insensitive(ours, sgd).holds is holds


def test_layers_have_to_reach_tuned_sgd() -> None:
    assert paper.layers(0.85, 0.85).holds
    assert not paper.layers(0.849, 0.85).holds
