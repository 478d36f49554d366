"""The claim's own arithmetic: its exact criteria, the toy problem's slopes, and how runs are judged."""

import pytest
import torch

from shoal.optim import Adam, Rule
from shoal.papers import adopt as paper

from .comparisons import comparison


def test_the_exact_criterion_holds() -> None:
    assert paper.exact({}).holds


def test_slopes_have_mean_one_and_the_published_values() -> None:
    met = paper.slopes(20_000, 20)
    assert set(met.unique().tolist()) == {-8.0, 64.0}
    assert float(met.mean()) == pytest.approx(1.0, abs=0.15)
    assert float((met > 0).double().mean()) == pytest.approx(1 / 8, abs=0.003)


def test_points_stay_in_the_box_and_follow_slopes_that_never_change() -> None:
    assert torch.equal(paper.last(Adam.rule(), torch.ones(2000, 3, dtype=torch.float64)), -torch.ones(3).double())


@pytest.mark.parametrize(
    ("adam", "ours", "expected"), [(0.9, -0.9, [True, True]), (0.7, -0.9, [False, True]), (0.9, -0.7, [True, False])]
)
def test_every_run_has_to_end_on_its_side(
    monkeypatch: pytest.MonkeyPatch, adam: float, ours: float, expected: list[bool]
) -> None:
    def last(rule: Rule, met: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.99, adam] if rule.name == "adam" else [-0.99, ours])

    monkeypatch.setattr(paper, "last", last)
    assert [finding.holds for finding in paper.unlikely(5, {}, runs=2)] == expected


@pytest.mark.parametrize(("worst", "holds"), [(0.55, True), (0.7, False), (float("inf"), False)])
def test_spreads_are_compared(worst: float, holds: bool) -> None:
    losses = {"Adam, 0.1": 0.6, "Adam, 0.9": 0.5, "ADOPT, 0.1": worst, "ADOPT, 0.9": 0.5}
    figures: dict[str, float] = {}
    assert paper.insensitive(comparison(losses, metric="loss"), figures).holds is holds
    assert float("inf") not in figures.values()


@pytest.mark.parametrize(("ours", "holds"), [(0.798, True), (0.796, False)])
def test_accuracies_are_judged_in_points(ours: float, holds: bool) -> None:
    assert paper.as_good(comparison({"Adam": 0.8, "ADOPT": ours})).holds is holds
