"""The claim's own arithmetic: its exact criteria, the closed form, and how losses are judged."""

import pytest

from shoal.learning.results import Trial
from shoal.papers import radam as paper

from .comparisons import comparison, entry


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.agreement(figures).holds
    assert paper.branches(figures).holds
    assert paper.without_adaptation(figures).holds


def test_rectification_is_the_published_closed_form() -> None:
    assert [paper.rho(t, 0.999) for t in range(1, 6)] == pytest.approx([1, 1.9995, 2.9987, 3.9975, 4.9960], abs=1e-4)
    assert paper.factor(6, 0.999) == pytest.approx(0.02582, abs=1e-5)
    assert paper.factor(100_000, 0.999) == pytest.approx(1.0, abs=1e-9)


def test_variances_are_those_of_the_rates() -> None:
    figures: dict[str, float] = {}
    paper.variances(figures, coordinates=1000, looked=(20, 30))
    # of t gradients almost evenly weighted: t (1 / (t - 2) - (gamma((t - 1) / 2) / gamma(t / 2))^2 / 2), t = 20
    assert figures["variance of the rate, Adam, step 20"] == pytest.approx(0.0304, rel=0.2)
    ratio = figures["variance of the rate, RAdam, step 20"] / figures["variance of the rate, Adam, step 20"]
    assert ratio == pytest.approx(paper.factor(20, 0.999) ** 2, rel=1e-6)


def test_warm_up_is_over_a_fifth() -> None:
    rates = [paper.warm_up(0.5, 50)(t) for t in range(50)]
    assert rates[:3] == pytest.approx([0.0, 0.05, 0.1])
    assert rates[10:] == [0.5] * 40


@pytest.mark.parametrize(
    ("ours", "warm", "adam", "expected"),
    [(1.0, 1.0, 1.1, [True, True]), (1.02, 1.0, 1.1, [False, True]), (1.0, 1.1, 1.0, [True, False])],
)
def test_losses_are_judged(ours: float, warm: float, adam: float, expected: list[bool]) -> None:
    found = comparison({"RAdam": ours, "Adam, warm-up": warm, "Adam": adam}, metric="loss")
    assert [paper.as_warm_up(found).holds, paper.better(found).holds] == expected


def test_only_the_common_rates_count_for_the_spread() -> None:
    trials = {
        "RAdam": [Trial(1e-3, {}, (2.0,)), Trial(3e-3, {}, (1.5,)), Trial(1.0, {}, (9.0,))],
        "Adam": [Trial(1e-3, {}, (2.2,)), Trial(3e-3, {}, (1.5,))],
    }
    made = [entry(name, [1.0], trials=some) for name, some in trials.items()]
    assert paper.robust(comparison(made, metric="loss"), {}).holds
