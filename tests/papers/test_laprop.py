"""The claim's own arithmetic: its exact criteria, and how runs are judged."""

import math

import pytest

from shoal.papers import laprop as paper

from .comparisons import comparison, entry


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.without_momentum(figures).holds
    assert paper.spike(figures).holds
    assert figures["growth of the step after a spike, Adam"] == pytest.approx(0.9 / 0.6**0.5)


def test_nothing_grows_where_adaptivity_is_slow() -> None:
    figures: dict[str, float] = {}
    paper.spike(figures, mu=0.5, nu=0.9, steps=35, late=25)
    assert figures["growth of the step after a spike, Adam"] < 1.0


@pytest.mark.parametrize(
    ("adam", "ours", "holds"), [(5.0, 0.5, True), (4.9, 0.5, False), (math.inf, 0.5, True), (math.inf, math.inf, False)]
)
def test_adam_has_to_do_much_worse(adam: float, ours: float, holds: bool) -> None:
    made = [entry(name, [0.5], losses=[x], train=(x,)) for name, x in (("Adam", adam), ("LaProp", ours))]
    assert paper.diverges(comparison(made)).holds is holds


@pytest.mark.parametrize(("after", "stays", "good"), [(0.78, True, True), (0.76, False, True)])
def test_accuracies_are_judged_in_points(after: float, stays: bool, good: bool) -> None:
    slow, fast = comparison({"LaProp": 0.8, "Adam": 0.804}), comparison({"LaProp": after, "Adam": 0.1})
    assert paper.stays(slow, fast).holds is stays
    assert paper.as_good(slow).holds is good
    assert not paper.as_good(comparison({"LaProp": 0.8, "Adam": 0.806})).holds
